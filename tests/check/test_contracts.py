"""Every implementation keeps its contract, and each promise is broken by an implementation made to break it."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.distributions import BernoulliDistribution
from torch import nn

from sb3_trpo_fvp import CGSolution, CGStatus, FisherOperator, GaussNewton, KLHessian, conjugate_gradient
from sb3_trpo_fvp.check import (
    Finding,
    Outcome,
    check_critic,
    check_family,
    check_fisher_operator,
    check_linearization,
    check_solver,
    failures,
)
from sb3_trpo_fvp.critic.adam import AdamCritic
from sb3_trpo_fvp.critic.fit import CriticFit, CriticStats, CriticStatus
from sb3_trpo_fvp.critic.gauss_newton import GaussNewtonCritic
from sb3_trpo_fvp.critic.value_function import ValueFunction
from sb3_trpo_fvp.distributions import BernoulliFamily, DistributionFamily, NormalFamily, Phi, TorchFamily
from sb3_trpo_fvp.linearization.actor import LinearizedActor
from sb3_trpo_fvp.linearization.autograd import GraphLinearization
from sb3_trpo_fvp.linearization.base import Linearization
from tests.check.cases import CRITICS, FAMILIES, OPERATORS, SOLVERS, gaussian
from tests.helpers.models import DISTRIBUTIONS, make_batch, make_policy


def broken(findings: Iterator[Finding]) -> list[str]:
    return [finding.promise for finding in failures(findings)]


def unchecked(findings: Sequence[Finding]) -> dict[str, str]:
    return {finding.promise: finding.detail for finding in findings if finding.outcome is Outcome.NOT_CHECKED}


# Every implementation


@pytest.mark.parametrize("dtype", [th.float32, th.float64], ids=str)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("fisher", OPERATORS.values(), ids=list(OPERATORS))
def test_fisher_operators(fisher: type[FisherOperator], distribution: str, dtype: th.dtype) -> None:
    policy = make_policy(distribution, dtype=dtype)
    findings = list(check_fisher_operator(fisher, policy, *make_batch(policy, 20)))
    assert failures(findings) == ()
    expected = {"device"} - ({"device"} if th.cuda.is_available() else set())
    expected |= {"chunks"} if fisher is KLHessian else set()
    expected |= set() if fisher.is_exact else {"equal to the Fisher matrix"}
    assert set(unchecked(findings)) == expected


@pytest.mark.parametrize("architecture", ["relu", "linear", "learned_extractor"])
@pytest.mark.parametrize("fisher", OPERATORS.values(), ids=list(OPERATORS))
def test_fisher_operators_on_other_networks(fisher: type[FisherOperator], architecture: str) -> None:
    policy = make_policy("gaussian", architecture, dtype=th.float32)
    assert broken(check_fisher_operator(fisher, policy, *make_batch(policy, 20))) == []


@pytest.mark.parametrize(("family", "build", "columns"), FAMILIES.values(), ids=list(FAMILIES))
def test_families(family: DistributionFamily, build: Callable[[th.Tensor], Any], columns: int) -> None:
    findings = list(check_family(family, build, th.randn(5, columns, generator=th.Generator().manual_seed(0))))
    assert failures(findings) == ()
    assert set(unchecked(findings)) <= {"score is the gradient of log_prob"}
    assert len(findings) == 10


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=list(SOLVERS))
def test_solvers(solve: Any) -> None:
    findings = list(check_solver(solve))
    assert failures(findings) == ()
    assert len(findings) == 15


@pytest.mark.parametrize("architecture", ["mlp", "learned_extractor"])
@pytest.mark.parametrize("critic", CRITICS.values(), ids=list(CRITICS))
def test_critics(critic: Callable[[], CriticFit], architecture: str) -> None:
    policy = make_policy("gaussian", architecture, dtype=th.float32)
    assert failures(check_critic(critic, policy, make_batch(policy, 40)[0])) == ()


@pytest.mark.parametrize("what", ["phi", "log_prob"])
@pytest.mark.parametrize("architecture", ["mlp", "learned_extractor"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_linearizations(distribution: str, architecture: str, what: str) -> None:
    policy = make_policy(distribution, architecture)
    observations, actions = make_batch(policy, 8)
    parameters = GaussNewton(policy, observations).parameters
    actor = LinearizedActor(policy, observations, parameters)
    linearization = actor.phi(actor.chunks[0], "test")[1] if what == "phi" else actor.log_prob(actor.chunks[0], actions)
    size = sum(parameter.numel() for parameter in parameters)
    if not hasattr(linearization, "outputs"):  # the scores of a stack: one number a state
        linearization.outputs = (th.zeros(8, dtype=th.float64),)
    findings = list(check_linearization(linearization, size))
    assert failures(findings) == ()
    assert len(findings) == 5


def concrete_subclasses(cls: type) -> set[type]:
    found = {cls} if not inspect.isabstract(cls) and cls.__module__.startswith("sb3_trpo_fvp.") else set()
    return found.union(*map(concrete_subclasses, cls.__subclasses__()))


def test_no_implementation_is_left_out() -> None:
    assert concrete_subclasses(FisherOperator) == set(OPERATORS.values())
    assert concrete_subclasses(DistributionFamily) <= {type(family) for family, _, _ in FAMILIES.values()}
    assert concrete_subclasses(CriticFit) == {type(make()) for make in CRITICS.values()}


# Broken operators


class Asymmetric(GaussNewton):
    def matvec(self, v: th.Tensor) -> th.Tensor:
        return super().matvec(v) + 0.05 * super().matvec(v).norm() / v.norm() * v.roll(1)


class Skew(GaussNewton):
    """F plus a rotation of two of the parameters: linear, and no symmetric matrix."""

    def matvec(self, v: th.Tensor) -> th.Tensor:
        product = super().matvec(v).clone()
        product[:40] += v[40:80].flip(0)[:40] if len(v) >= 80 else v[-40:].flip(0)
        return product


class Indefinite(GaussNewton):
    def matvec(self, v: th.Tensor) -> th.Tensor:
        return super().matvec(v) - 0.1 * v


class NonLinear(GaussNewton):
    def matvec(self, v: th.Tensor) -> th.Tensor:
        return super().matvec(v) + 0.01 * v.abs()


class Affine(GaussNewton):
    def matvec(self, v: th.Tensor) -> th.Tensor:
        return super().matvec(v) + 0.01


class Stateful(GaussNewton):
    """Every product is a little larger than the one before."""

    count = 0

    def matvec(self, v: th.Tensor) -> th.Tensor:
        self.count += 1
        return super().matvec(v) * (1.0 + 0.01 * self.count)


class InPlace(GaussNewton):
    def matvec(self, v: th.Tensor) -> th.Tensor:
        return v.copy_(super().matvec(v))


class OneBuffer(GaussNewton):
    """All products share their memory."""

    def matvec(self, v: th.Tensor) -> th.Tensor:
        product = super().matvec(v)
        self.memory = getattr(self, "memory", th.empty_like(product))
        return self.memory.copy_(product)


class Damped(GaussNewton):
    def matvec(self, v: th.Tensor) -> th.Tensor:
        return super().matvec(v) + 0.1 * v


class Identity(FisherOperator):
    def matvec(self, v: th.Tensor) -> th.Tensor:
        return v.clone()


class Sum(GaussNewton):
    def matvec(self, v: th.Tensor) -> th.Tensor:
        return super().matvec(v) * len(self.observations)


class MeanOfChunks(GaussNewton):
    """The mean of the chunks' means, which is not that of the states where the last chunk is smaller."""

    def matvec(self, v: th.Tensor) -> th.Tensor:
        means = []
        for chunk in self.actor.chunks:
            jacobian, metric = self.factor(chunk)
            means.append(jacobian.vjp(metric(jacobian.jvp(v))) / len(self.observations[chunk]))
        return th.stack(means).mean(0)


class AcrossStates(GaussNewton):
    """Its states are not independent: observations are centred by the batch's mean."""

    def __init__(self, policy: Any, observations: th.Tensor, *args: Any, **kwargs: Any):
        super().__init__(policy, observations - observations.mean(0), *args, **kwargs)


class SingleOnly(GaussNewton):
    """In double precision something is forgotten."""

    def matvec(self, v: th.Tensor) -> th.Tensor:
        return super().matvec(v) * (1.0 if v.dtype is th.float32 else 0.9)


class WrongShape(GaussNewton):
    def matvec(self, v: th.Tensor) -> th.Tensor:
        return super().matvec(v)[:-1]


class WrongPrecision(GaussNewton):
    def matvec(self, v: th.Tensor) -> th.Tensor:
        return super().matvec(v).double()


class NotANumber(GaussNewton):
    def matvec(self, v: th.Tensor) -> th.Tensor:
        return super().matvec(v) * math.nan


class MovesThePolicy(GaussNewton):
    def matvec(self, v: th.Tensor) -> th.Tensor:
        with th.no_grad():
            self.parameters[0].mul_(1.0 + 1e-6)
        return super().matvec(v)


class DrawsRandomNumbers(GaussNewton):
    def matvec(self, v: th.Tensor) -> th.Tensor:
        th.randn(1)
        return super().matvec(v)


BROKEN_OPERATORS: Any = [
    (Asymmetric, "symmetry"),
    (Skew, "symmetry"),
    (Indefinite, "semi-definiteness"),
    (NonLinear, "linearity"),
    (Affine, "linearity"),
    (Stateful, "repeatability"),
    (InPlace, "vector kept"),
    (OneBuffer, "product kept"),
    (Damped, "equal to the Fisher matrix"),
    (Identity, "equal to the Fisher matrix"),
    (Sum, "mean over states"),
    (MeanOfChunks, "chunks"),
    (AcrossStates, "state by state"),
    (SingleOnly, "dtype"),
    (WrongShape, "shape"),
    (WrongPrecision, "shape"),
    (NotANumber, "finite"),
    (MovesThePolicy, "policy and random state kept"),
    (DrawsRandomNumbers, "policy and random state kept"),
]


@pytest.mark.parametrize(("fisher", "promise"), BROKEN_OPERATORS)
def test_a_broken_operator_is_found(fisher: type[FisherOperator], promise: str) -> None:
    policy = make_policy("gaussian", dtype=th.float32)
    assert promise in broken(check_fisher_operator(fisher, policy, *make_batch(policy, 20)))


def test_what_is_not_finite_has_one_fault() -> None:
    policy = make_policy("gaussian", dtype=th.float32)
    assert broken(check_fisher_operator(NotANumber, policy, *make_batch(policy, 20))) == ["finite"]


def test_an_approximation_is_not_asked_to_be_exact_but_for_the_rest() -> None:
    policy = make_policy("gaussian", dtype=th.float32)
    data = make_batch(policy, 20)
    declared = type("Declared", (Identity,), {"is_exact": False})
    findings = list(check_fisher_operator(declared, policy, *data))
    assert failures(findings) == ()
    assert "cosine 0." in unchecked(findings)["equal to the Fisher matrix"]
    assert broken(check_fisher_operator(type("DeclaredSum", (Sum,), {"is_exact": False}), policy, *data)) == [
        "mean over states"
    ]


def test_a_policy_that_cannot_be_run_in_another_precision_is_told() -> None:
    class Stubborn(nn.Module):
        def forward(self, x: th.Tensor) -> th.Tensor:
            return x.float()

    policy = make_policy("gaussian", dtype=th.float32)
    policy.mlp_extractor.policy_net.insert(1, Stubborn())
    findings = list(check_fisher_operator("gauss_newton", policy, *make_batch(policy, 20)))
    assert failures(findings) == ()
    assert "cannot be run" in unchecked(findings)["dtype"]


# Broken families


class HalvedFisher(NormalFamily):
    """σ as if it were log σ."""

    def fisher(self, phi: Phi) -> Callable[[Phi], Phi]:
        precision = phi[1].square().reciprocal()
        return lambda u: (u[0] * precision, 2.0 * u[1])


class SkewFisher(NormalFamily):
    def fisher(self, phi: Phi) -> Callable[[Phi], Phi]:
        multiply = super().fisher(phi)
        return lambda u: (multiply(u)[0] + u[1], multiply(u)[1])


class NegativeFisher(NormalFamily):
    def fisher(self, phi: Phi) -> Callable[[Phi], Phi]:
        multiply = super().fisher(phi)
        return lambda u: tuple(-tangent for tangent in multiply(u))


class AbsoluteFisher(NormalFamily):
    def fisher(self, phi: Phi) -> Callable[[Phi], Phi]:
        multiply = super().fisher(phi)
        return lambda u: tuple(tangent.abs() for tangent in multiply(u))


class NewFirst(NormalFamily):
    def kl(self, old: Phi, new: Phi) -> th.Tensor:
        return super().kl(new, old)


class MeanOverActions(NormalFamily):
    """sb3-contrib's: the KL of the action is the mean over its dimensions."""

    def kl(self, old: Phi, new: Phi) -> th.Tensor:
        return super().kl(old, new).mean(1, keepdim=True)


class MeanOverStates(NormalFamily):
    def kl(self, old: Phi, new: Phi) -> th.Tensor:
        kl = super().kl(old, new)
        return kl.mean(0).expand_as(kl)


class SummedKL(NormalFamily):
    def kl(self, old: Phi, new: Phi) -> th.Tensor:
        return super().kl(old, new).sum(1)


class ShiftedKL(NormalFamily):
    """The ½ forgotten."""

    def kl(self, old: Phi, new: Phi) -> th.Tensor:
        return super().kl(old, new) + 0.5


class NegativeKL(NormalFamily):
    def kl(self, old: Phi, new: Phi) -> th.Tensor:
        return -super().kl(old, new)


class WrongScore(NormalFamily):
    def score(self, phi: Phi, actions: th.Tensor) -> Phi:
        z, _ = super().score(phi, actions)
        return z, z * z - 1.0 / phi[1]


BROKEN_FAMILIES: Any = [
    (HalvedFisher, "Fisher matrix is the KL's Hessian"),
    (SkewFisher, "symmetric Fisher matrix"),
    (NegativeFisher, "semi-definite Fisher matrix"),
    (AbsoluteFisher, "linear Fisher matrix"),
    (NewFirst, "KL of log_prob, old first"),
    (MeanOverActions, "KL of log_prob, old first"),
    (MeanOverStates, "state by state"),
    (SummedKL, "shape"),
    (ShiftedKL, "zero at the same φ"),
    (NegativeKL, "non-negative KL"),
    (WrongScore, "score is the gradient of log_prob"),
]


@pytest.mark.parametrize(("family", "promise"), BROKEN_FAMILIES)
def test_a_broken_family_is_found(family: type[DistributionFamily], promise: str) -> None:
    x = th.randn(5, 4, generator=th.Generator().manual_seed(0))
    assert promise in broken(check_family(family(), gaussian, x))


def test_a_distribution_that_is_not_of_the_family_is_found() -> None:
    """The family is a Bernoulli's, the probabilities are not its."""

    class Sharper(BernoulliDistribution):
        def log_prob(self, actions: th.Tensor) -> th.Tensor:
            return 2.0 * super().log_prob(actions)

    found = broken(check_family(BernoulliFamily(), lambda x: Sharper(3).proba_distribution(x), th.randn(5, 3)))
    assert found == ["KL of log_prob, old first", "score is the gradient of log_prob"]


def test_a_hessian_that_autograd_gets_wrong_is_found() -> None:
    """Torch's KL of Laplaces has |μ − μ'| in it, of which autograd takes the second derivative for 0."""
    build = FAMILIES["laplace"][1]
    family = TorchFamily(th.distributions.Laplace, ("loc", "scale"))
    assert broken(check_family(family, build, th.randn(5, 4))) == ["Fisher matrix is the KL's Hessian"]


def test_a_family_needs_two_states() -> None:
    with pytest.raises(ValueError, match="`x` must hold at least 2 states, got 1"):
        list(check_family(NormalFamily(), gaussian, th.randn(1, 4)))


# Broken solvers


def without(**changes: Any) -> Callable[..., CGSolution]:
    """Conjugate gradients that tell something else than they did."""

    def solve(*args: Any, **kwargs: Any) -> CGSolution:
        solution = conjugate_gradient(*args, **kwargs)
        return replace(solution, **{name: change(getattr(solution, name)) for name, change in changes.items()})

    return solve


def ignores_max_steps(matvec: Any, b: th.Tensor, *, max_steps: int, rtol: float) -> CGSolution:
    return conjugate_gradient(matvec, b, max_steps=1000, rtol=max(rtol, 1e-12))


def ignores_rtol(matvec: Any, b: th.Tensor, *, max_steps: int, rtol: float) -> CGSolution:
    return conjugate_gradient(matvec, b, max_steps=max_steps, rtol=1e-10)


def random_start(matvec: Any, b: th.Tensor, **kwargs: Any) -> CGSolution:
    return conjugate_gradient(matvec, b, x0=1e-4 * th.randn_like(b), **kwargs)


def absolute_tolerance(matvec: Any, b: th.Tensor, **kwargs: Any) -> CGSolution:
    return conjugate_gradient(matvec, b, atol=1e-6, **kwargs)


def changes_b(matvec: Any, b: th.Tensor, **kwargs: Any) -> CGSolution:
    solution = conjugate_gradient(matvec, b.clone(), **kwargs)
    b.sub_(matvec(solution.value))
    return solution


def loose(matvec: Any, b: th.Tensor, *, max_steps: int, rtol: float) -> CGSolution:
    return conjugate_gradient(matvec, b, max_steps=max_steps, rtol=1e-3)


def always_double(matvec: Any, b: th.Tensor, **kwargs: Any) -> CGSolution:
    return conjugate_gradient(matvec, b.double(), **kwargs)


def multiplies_zero(matvec: Any, b: th.Tensor, **kwargs: Any) -> CGSolution:
    matvec(b)
    return conjugate_gradient(matvec, b, **kwargs)


def says_max_steps(status: CGStatus) -> CGStatus:
    return CGStatus.MAX_STEPS if status in (CGStatus.NONPOSITIVE_CURVATURE, CGStatus.NONFINITE) else status


BROKEN_SOLVERS: Any = [
    (loose, "solution"),
    (ignores_max_steps, "max_steps"),
    (ignores_rtol, "rtol"),
    (random_start, "repeatability"),
    (absolute_tolerance, "scale"),
    (changes_b, "right-hand side kept"),
    (always_double, "dtype"),
    (multiplies_zero, "zero right-hand side"),
    (without(num_steps=lambda steps: 1), "counted steps"),
    (without(value=lambda x: -x), "ascent"),
    (without(residual_norm=lambda norm: norm**2), "residual_norm"),
    (without(quadratic_form=lambda form: form + 1.0), "quadratic_form"),
    (without(status=says_max_steps), "negative curvature"),
    (without(status=says_max_steps), "NaN in a product"),
    (without(status=says_max_steps), "NaN in the right-hand side"),
]


@pytest.mark.parametrize(("solve", "promise"), BROKEN_SOLVERS)
def test_a_broken_solver_is_found(solve: Callable[..., CGSolution], promise: str) -> None:
    assert promise in broken(check_solver(solve))


# Broken critics


class Worse(AdamCritic):
    """Up the slope."""

    def __init__(self) -> None:
        super().__init__(5, 16)

    def fit(self, values: ValueFunction, returns: th.Tensor, state: Mapping[str, float]) -> CriticStats:
        return super().fit(values, 2.0 * values().flatten().detach() - returns, state)


class MovesTheActor(GaussNewtonCritic):
    def fit(self, values: ValueFunction, returns: th.Tensor, state: Mapping[str, float]) -> Any:
        with th.no_grad():
            values.policy.action_net.bias.add_(1e-6)
        return super().fit(values, returns, state)


class MovesLater(GaussNewtonCritic):
    """Only a fit that goes on from another one moves the actor."""

    def fit(self, values: ValueFunction, returns: th.Tensor, state: Mapping[str, float]) -> Any:
        with th.no_grad():
            values.policy.action_net.bias.add_(1e-6 * bool(state))
        return super().fit(values, returns, state)


class ChangesMode(GaussNewtonCritic):
    def fit(self, values: ValueFunction, returns: th.Tensor, state: Mapping[str, float]) -> Any:
        stats = super().fit(values, returns, state)
        values.policy.train()
        return stats


class Idle(CriticFit):
    def fit(self, values: ValueFunction, returns: th.Tensor, state: Mapping[str, float]) -> CriticStats:
        return CriticStats(CriticStatus.NO_DESCENT, 1.0)


class Unseeded(AdamCritic):
    generator = th.Generator().manual_seed(0)

    def __init__(self) -> None:
        super().__init__(5, 16)

    def fit(self, values: ValueFunction, returns: th.Tensor, state: Mapping[str, float]) -> CriticStats:
        return super().fit(values, returns + 0.1 * th.randn(len(returns), generator=self.generator), state)


class KeepsTensors(GaussNewtonCritic):
    class Stats(CriticStats):
        state: Any = {"damping": th.ones(())}  # noqa: RUF012

    def fit(self, values: ValueFunction, returns: th.Tensor, state: Mapping[str, float]) -> Any:
        stats = super().fit(values, returns, {})
        return self.Stats(stats.status, stats.loss)


class TellsNothing(GaussNewtonCritic):
    def fit(self, values: ValueFunction, returns: th.Tensor, state: Mapping[str, float]) -> Any:
        return replace(super().fit(values, returns, state), loss=math.nan)


class Overshoots(AdamCritic):
    """Noise on what is right already."""

    def __init__(self) -> None:
        super().__init__(5, 16)

    def fit(self, values: ValueFunction, returns: th.Tensor, state: Mapping[str, float]) -> CriticStats:
        return super().fit(values, returns + 1.0, state)


BROKEN_CRITICS: Any = [
    (Worse, "loss does not rise"),
    (MovesTheActor, "actor kept"),
    (MovesLater, "actor kept by all fits"),
    (ChangesMode, "modes kept"),
    (Idle, "named status"),
    (Idle, "progress"),
    (Unseeded, "repeatability"),
    (KeepsTensors, "state of plain numbers"),
    (TellsNothing, "finite loss"),
    (Overshoots, "perfect values kept"),
]


@pytest.mark.parametrize(("critic", "promise"), BROKEN_CRITICS)
def test_a_broken_critic_is_found(critic: Callable[[], CriticFit], promise: str) -> None:
    policy = make_policy("gaussian", dtype=th.float32)
    assert promise in broken(check_critic(critic, policy, make_batch(policy, 40)[0]))


def test_a_critic_needs_parameters_of_its_own() -> None:
    policy = make_policy("gaussian", dtype=th.float32)
    for module in (policy.value_net, policy.mlp_extractor.value_net):
        module.requires_grad_(False)
    with pytest.raises(ValueError, match="`policy` must have parameters that are the critic's alone"):
        list(check_critic(GaussNewtonCritic, policy, make_batch(policy, 4)[0]))


# Broken linearisations


class Altered(Linearization):
    """A linearisation of a quadratic map, with one thing changed."""

    def __init__(self, what: str):
        theta = nn.Parameter(th.linspace(-1.0, 1.0, 6, dtype=th.float64))
        inner = GraphLinearization([(theta.outer(theta)[:4]).square()], [theta])
        self.inner, self.what, self.outputs, self.count = inner, what, inner.outputs, 0

    def jvp(self, v: th.Tensor) -> tuple[th.Tensor, ...]:
        (jv,) = self.inner.jvp(v)
        self.count += 1
        if self.what == "repeatability":
            return (jv * (1 + 0.01 * self.count),)
        changes = {"adjointness": 2.0 * jv, "linearity": jv + jv.abs(), "shape": jv.flatten()}
        return (changes.get(self.what, jv),)

    def vjp(self, u: Sequence[th.Tensor], out: th.Tensor | None = None) -> th.Tensor:
        if out is not None and self.what == "accumulation":
            return out.copy_(self.inner.vjp(u))
        return self.inner.vjp(u, out)


@pytest.mark.parametrize("promise", ["shape", "adjointness", "linearity", "repeatability", "accumulation"])
def test_a_broken_linearization_is_found(promise: str) -> None:
    assert promise in broken(check_linearization(Altered(promise), 6))
    assert broken(check_linearization(Altered("nothing"), 6)) == []


def test_every_promise_has_an_implementation_that_breaks_it() -> None:
    policy = make_policy("gaussian", dtype=th.float32)
    observations, actions = make_batch(policy, 20)
    kept: list[tuple[Any, Iterator[Finding]]] = [
        (BROKEN_OPERATORS, check_fisher_operator("gauss_newton", policy, observations, actions)),
        (BROKEN_FAMILIES, check_family(NormalFamily(), gaussian, th.randn(5, 4))),
        (BROKEN_SOLVERS, check_solver(conjugate_gradient)),
        (BROKEN_CRITICS, check_critic(GaussNewtonCritic, policy, observations)),
    ]
    for cases, findings in kept:
        assert {promise for _, promise in cases} == {finding.promise for finding in findings} - {"device"}


@pytest.mark.skipif(not th.cuda.is_available(), reason="there is no CUDA device here")
def test_an_operator_that_is_another_on_the_gpu_is_found() -> None:
    class CPUOnly(GaussNewton):
        def matvec(self, v: th.Tensor) -> th.Tensor:
            return super().matvec(v) * (0.9 if v.is_cuda else 1.0)

    policy = make_policy("gaussian", dtype=th.float32)
    assert broken(check_fisher_operator(CPUOnly, policy, *make_batch(policy, 20))) == ["device"]


def test_a_finding_reads_as_a_sentence() -> None:
    assert str(Finding("symmetry", Outcome.BROKEN, "off by 2")) == "symmetry: broken, off by 2"
    assert str(Finding("symmetry", Outcome.KEPT)) == "symmetry: kept"
