"""Families of action distributions: φ, the KL old first, M as its Hessian, and own distributions described or not."""

import math
from typing import Any

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    Gamma,
    Gumbel,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Pareto,
    TanhTransform,
    TransformedDistribution,
    Uniform,
    kl_divergence,
)

from sb3_trpo_fvp import DistributionFamily, fisher_operator, register_family
from sb3_trpo_fvp.distributions import (
    BernoulliFamily,
    CategoricalFamily,
    NormalFamily,
    Phi,
    TorchFamily,
    family_of,
    joint_kl,
    monte_carlo_kl,
)
from sb3_trpo_fvp.distributions.lookup import _REGISTERED
from tests.helpers import oracles
from tests.helpers.distributions import BetaDistribution, LaplaceDistribution, LaplaceFamily, MixtureDistribution, policy_with
from tests.helpers.training import changed, collected, rollout, snapshot, train

BOX = spaces.Box(-1.0, 1.0, (3,))
UNIT = spaces.Box(0.0, 1.0, (2,))


def random_pair(kind: str, n: int = 6, a: int = 3) -> tuple[DistributionFamily, list[Phi], list[list[Any]]]:
    """A family, two φ of it in double precision, and the torch distributions that they stand for."""
    th.manual_seed(0)
    draw = [th.randn(n, a, dtype=th.float64) for _ in range(4)]
    if kind == "normal":
        phi = [(draw[0], draw[1].exp()), (draw[2], draw[3].exp())]
        return NormalFamily(), phi, [[Normal(*p)] for p in phi]
    if kind == "bernoulli":
        phi = [(draw[0],), (draw[1],)]
        return BernoulliFamily(), phi, [[Bernoulli(logits=p[0])] for p in phi]
    phi = [(draw[0], draw[1][:, :2]), (draw[2], draw[3][:, :2])]
    return CategoricalFamily(), phi, [[Categorical(logits=logits) for logits in p] for p in phi]


@pytest.mark.parametrize("kind", ["normal", "bernoulli", "categorical"])
def test_joint_kl_is_the_sum_over_the_action_old_first(kind: str) -> None:
    family, (old, new), (p, q) = random_pair(kind)
    expected = oracles.joint_kl(p, q)
    assert abs(expected - oracles.joint_kl(q, p)) > 1e-3
    assert float(joint_kl(family, old, new)) == pytest.approx(expected, rel=1e-12)
    assert float(joint_kl(family, old, old)) == 0.0


@pytest.mark.parametrize("kind", ["normal", "bernoulli", "categorical"])
def test_the_sampled_kl_converges_to_the_closed_form(kind: str) -> None:
    """Its error shrinks as 1/√M and stays within four standard errors."""
    family, (old, new), (p, q) = random_pair(kind, n=1)
    exact = float(joint_kl(family, old, new))
    for size in (1_000, 100_000):
        samples = [factor.sample((size,)) for factor in p]
        old_lp, new_lp = (
            sum(f.log_prob(x).reshape(size, -1).sum(1) for f, x in zip(fs, samples, strict=True)) for fs in (p, q)
        )
        error = 4 * float((old_lp - new_lp).std()) / math.sqrt(size)
        assert abs(float(monte_carlo_kl(old_lp, new_lp)) - exact) < error
    assert error < 0.1 * exact


def test_the_kl_of_very_close_and_very_far_distributions_keeps_its_digits() -> None:
    close = Normal(th.zeros(1, 1), th.ones(1, 1)), Normal(th.full((1, 1), 1e-4), th.full((1, 1), 1.0001))
    exact = float(kl_divergence(*(Normal(d.loc.double(), d.scale.double()) for d in close)))
    kl = NormalFamily().kl(*((d.loc, d.scale) for d in close))
    assert float(kl) == pytest.approx(exact, rel=1e-2)
    logits = th.tensor([[20.0]]), th.tensor([[20.5]])
    exact = float(kl_divergence(*(Bernoulli(logits=z.double()) for z in logits)))
    assert float(BernoulliFamily().kl(*((z,) for z in logits))) == pytest.approx(exact, rel=1e-4)
    far = (th.zeros(1, 1), th.ones(1, 1)), (th.full((1, 1), 1e30), th.ones(1, 1))
    assert float(NormalFamily().kl(*far)) == math.inf


def test_a_masked_action_adds_nothing_to_the_kl() -> None:
    """A mask of −∞ on a logit of the old and the new policy; unmasking is fine, masking what was taken is infinitely far."""
    masked = th.tensor([[0.3, -math.inf, 1.0]], dtype=th.float64)
    other = th.tensor([[1.3, -math.inf, 0.0]], dtype=th.float64, requires_grad=True)
    family = CategoricalFamily()
    expected = kl_divergence(Categorical(logits=masked[:, ::2]), Categorical(logits=other[:, ::2]))
    kl = family.kl((masked,), (other,)).sum()
    assert kl.item() == pytest.approx(expected.item())
    (gradient,) = th.autograd.grad(kl, other)
    assert bool(th.isfinite(gradient).all())
    assert float(family.kl((th.zeros(1, 3),), (th.tensor([[0.0, 0.0, -math.inf]]),))) == math.inf


@pytest.mark.parametrize(
    ("inner", "family"),
    [
        (lambda: Normal(th.rand(4, 2), th.rand(4, 2) + 1), NormalFamily),
        (lambda: Independent(Normal(th.rand(4, 2), th.rand(4, 2) + 1), 1), NormalFamily),
        (lambda: TransformedDistribution(Normal(th.rand(4, 2), th.rand(4, 2) + 1), [TanhTransform()]), NormalFamily),
        (lambda: LogNormal(th.rand(4, 2), th.rand(4, 2) + 1), NormalFamily),
        (lambda: Beta(th.rand(4, 2) + 1, th.rand(4, 2) + 1), TorchFamily),
        (lambda: Gamma(th.rand(4, 2) + 1, th.rand(4, 2) + 1), TorchFamily),
        (lambda: Gumbel(th.rand(4, 2), th.rand(4, 2) + 1), TorchFamily),
        (lambda: Dirichlet(th.rand(4, 3) + 1), TorchFamily),
        (lambda: OneHotCategorical(logits=th.rand(4, 3)), TorchFamily),
        (lambda: MultivariateNormal(th.rand(4, 2), th.eye(2).expand(4, 2, 2)), TorchFamily),
        # What is moved by a parameter is not a fixed bijection, and these have no Hessian that is their Fisher matrix.
        (
            lambda: TransformedDistribution(Normal(th.rand(4, 2), th.rand(4, 2) + 1), [AffineTransform(th.rand(4, 2), 1.0)]),
            type(None),
        ),
        (lambda: Laplace(th.rand(4, 2), th.rand(4, 2) + 1), type(None)),
        (lambda: Uniform(th.zeros(4, 2), th.rand(4, 2) + 1), type(None)),
        (lambda: Pareto(th.rand(4, 2) + 1, th.rand(4, 2) + 1), type(None)),
        (
            lambda: MixtureSameFamily(Categorical(logits=th.rand(4, 2, 3)), Normal(th.rand(4, 2, 3), th.rand(4, 2, 3) + 1)),
            type(None),
        ),
    ],
)
def test_the_family_is_found_from_the_torch_distribution(inner: Any, family: type) -> None:
    class Own(DiagGaussianDistribution):
        """A subclass of a normal policy that need not be normal."""

    distribution = Own(2)
    distribution.distribution = inner()
    found = family_of(distribution)
    assert type(found) is family
    if found is None:
        return
    phi = tuple(tensor.double() for tensor in found.parameters(distribution))
    assert found.kl(phi, phi).shape[0] == 4
    assert float(joint_kl(found, phi, phi)) == pytest.approx(0.0, abs=1e-6)
    # M is the Hessian of the KL in its second argument: here by finite differences along one direction.
    th.manual_seed(1)
    u = tuple(th.randn_like(tensor) for tensor in phi)
    if isinstance(base := distribution.distribution, MultivariateNormal):
        assert base.covariance_matrix.shape == (4, 2, 2)
        u = (u[0], th.zeros_like(u[1]))
    h = 1e-4
    there = found.kl(phi, tuple(p + h * d for p, d in zip(phi, u, strict=True))).sum()
    back = found.kl(phi, tuple(p - h * d for p, d in zip(phi, u, strict=True))).sum()
    quadratic = sum(float((a * b).sum()) for a, b in zip(u, found.fisher(phi)(u), strict=True))
    assert float(there + back) / h**2 == pytest.approx(quadratic, rel=1e-4)


def test_a_beta_policy_trains_without_a_line_about_it() -> None:
    model = collected(UNIT, policy=policy_with(BetaDistribution), n_steps=128)
    observations = rollout(model).observations
    with th.no_grad():
        old = model.policy.get_distribution(observations).distribution
    log = train(model)
    with th.no_grad():
        new = model.policy.get_distribution(observations).distribution
    measured = float(kl_divergence(old, new).sum(1).mean())
    assert log["trust_region/status"] == "accepted"
    assert 0.0 < measured <= 0.01 * (1 + 1e-3)
    assert log["trust_region/kl"] == pytest.approx(measured, rel=1e-3)


@pytest.mark.parametrize("distribution", [BetaDistribution, LaplaceDistribution])
def test_gauss_newton_and_kl_hessian_agree_on_own_distributions(distribution: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_REGISTERED, LaplaceDistribution, LaplaceFamily())
    model = collected(UNIT, policy=policy_with(distribution))
    observations, actions = rollout(model).observations, rollout(model).actions
    products = {}
    for kind in ("gauss_newton", "empirical", "kl_hessian"):
        operator = fisher_operator(model.policy, observations, actions, kind=kind)
        th.manual_seed(0)
        products[kind] = operator @ th.randn(operator.shape[0])
    if distribution is BetaDistribution:
        assert th.allclose(products["gauss_newton"], products["kl_hessian"], rtol=1e-3, atol=1e-6)
    # The kink hides the location's curvature from autograd, but the closed form and the actions taken agree on it.
    assert th.cosine_similarity(products["gauss_newton"], products["empirical"], dim=0) > 0.7
    log = train(model)
    assert log["trust_region/status"] == "accepted"
    assert log["trust_region/kl"] <= 0.01


def test_register_family_is_how_a_distribution_is_described() -> None:
    model = collected(UNIT, policy=policy_with(LaplaceDistribution))
    with pytest.raises(ValueError, match="register_family"):
        model.train()
    try:
        register_family(LaplaceDistribution, LaplaceFamily())
        assert train(model)["trust_region/status"] == "accepted"
    finally:
        del _REGISTERED[LaplaceDistribution]


def test_a_mixture_trains_from_log_prob_and_sample_alone() -> None:
    model = collected(
        BOX, policy=policy_with(MixtureDistribution), fisher="empirical", kl_estimator="monte_carlo", n_steps=256
    )
    data = rollout(model)

    def log_prob() -> th.Tensor:
        with th.no_grad():
            return model.policy.get_distribution(data.observations).log_prob(data.actions)

    old = log_prob()
    log = train(model)
    estimate = float((old - log_prob()).mean())
    assert log["trust_region/status"] == "accepted"
    assert log["trust_region/kl_monte_carlo"] == pytest.approx(estimate, rel=1e-2, abs=1e-6)
    assert log["train/kl_divergence_loss"] == log["trust_region/kl_monte_carlo"] <= 0.01
    assert math.isnan(log["trust_region/kl"])


@pytest.mark.parametrize("option", [{}, {"fisher": "empirical"}, {"kl_estimator": "monte_carlo"}])
def test_options_that_need_the_kl_say_so(option: dict[str, str]) -> None:
    model = collected(BOX, policy=policy_with(MixtureDistribution), **option)
    before = snapshot(model.policy)
    with pytest.raises(ValueError, match='fisher="empirical" and kl_estimator="monte_carlo"'):
        model.train()
    assert changed(before, model.policy) == set()
