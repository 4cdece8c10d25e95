"""The constraint means what it says: joint KL, its direction, its reduction, its estimate, and own distributions."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
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
    _REGISTERED,
    BernoulliFamily,
    CategoricalFamily,
    NormalFamily,
    Phi,
    TorchFamily,
    family_of,
    joint_kl,
    monte_carlo_kl,
)
from tests.helpers import training as rollouts
from tests.helpers.training import all_finite, changed, collected, rollout, snapshot, train, train_measuring_kl

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
    expected = rollouts.joint_kl(p, q)
    assert abs(expected - rollouts.joint_kl(q, p)) > 1e-3
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


def test_kl_of_very_close_and_very_far_distributions() -> None:
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


class OwnDistribution(Distribution):
    """Base of the own distributions below: a network with ``outputs`` columns for each action dimension."""

    outputs = 2

    def __init__(self, action_dim: int):
        super().__init__()
        self.action_dim = action_dim

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        return nn.Linear(latent_dim, self.outputs * self.action_dim)

    def proba_distribution(self, params: th.Tensor) -> Any:
        self.distribution = self.build(*params.reshape(len(params), self.action_dim, self.outputs).unbind(-1))
        return self

    def build(self, *params: th.Tensor) -> th.distributions.Distribution:
        raise NotImplementedError

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        return self.distribution.log_prob(actions).sum(1)

    def entropy(self) -> th.Tensor | None:
        return None

    def sample(self) -> th.Tensor:
        return self.distribution.sample()

    def mode(self) -> th.Tensor:
        return self.distribution.mean

    def actions_from_params(self, params: th.Tensor, deterministic: bool = False) -> th.Tensor:
        return self.proba_distribution(params).get_actions(deterministic)

    def log_prob_from_params(self, params: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        actions = self.actions_from_params(params)
        return actions, self.log_prob(actions)


class BetaDistribution(OwnDistribution):
    """Bounded actions without clipping."""

    def build(self, a: th.Tensor, b: th.Tensor) -> Beta:
        return Beta(1 + nn.functional.softplus(a), 1 + nn.functional.softplus(b))


class MixtureDistribution(OwnDistribution):
    """Two normals: a density without a closed-form KL."""

    outputs = 3

    def build(self, logit: th.Tensor, first: th.Tensor, second: th.Tensor) -> MixtureSameFamily:
        means = th.stack([first, second], -1) + th.tensor([-1.0, 1.0])
        weights = Categorical(logits=th.stack([logit, -logit], -1))
        return MixtureSameFamily(weights, Normal(means, th.full_like(means, 0.5)))


class LaplaceDistribution(OwnDistribution):
    """Heavy tails; torch's KL for it has a kink where old and new agree."""

    def build(self, mean: th.Tensor, log_scale: th.Tensor) -> Laplace:
        return Laplace(mean, log_scale.exp())


class LaplaceFamily(DistributionFamily):
    """φ = (μ, b), M = diag(1/b², 1/b²)."""

    def parameters(self, distribution: Distribution) -> Phi:
        laplace: Any = distribution.distribution
        return laplace.loc, laplace.scale

    def kl(self, old: Phi, new: Phi) -> th.Tensor:
        return kl_divergence(Laplace(*old), Laplace(*new))

    def fisher(self, phi: Phi) -> Any:
        return lambda u: tuple(tangent / phi[1].square() for tangent in u)


def policy_with(distribution_class: type[OwnDistribution]) -> type[ActorCriticPolicy]:
    """SB3's policy around an own action distribution."""

    class OwnPolicy(ActorCriticPolicy):
        def _build(self, lr_schedule: Any) -> None:
            super()._build(lr_schedule)
            self.action_dist: Any = distribution_class(self.action_space.shape[0])
            self.action_net = self.action_dist.proba_distribution_net(self.mlp_extractor.latent_dim_pi)
            self.log_std = None
            self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

        def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Distribution:
            return self.action_dist.proba_distribution(self.action_net(latent_pi))

    return OwnPolicy


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


@pytest.mark.parametrize("estimator", ["analytic", "monte_carlo"])
def test_both_estimates_are_logged_and_one_decides(estimator: str) -> None:
    log, measured = train_measuring_kl(collected(BOX, kl_estimator=estimator, n_steps=512, target_kl=0.02))
    decides = "kl" if estimator == "analytic" else "kl_monte_carlo"
    assert log["train/kl_divergence_loss"] == log[f"trust_region/{decides}"] <= 0.02
    assert log["trust_region/kl"] == pytest.approx(measured, rel=1e-3)
    # √(2 KL / M) is the standard error of the estimate.
    assert abs(log["trust_region/kl_monte_carlo"] - measured) < 4 * math.sqrt(2 * measured / 1024)


@pytest.mark.parametrize("squash", [False, True])
def test_gsde_is_bounded_whether_squashed_or_not(squash: bool) -> None:
    kwargs = {"net_arch": {"pi": [8], "vf": [8]}, "squash_output": squash}
    log, measured = train_measuring_kl(collected(BOX, use_sde=True, policy_kwargs=kwargs))
    assert log["trust_region/status"] == "accepted"
    assert 0.0 < measured <= 0.01 * (1 + 1e-3)


@pytest.mark.parametrize("space", [BOX, spaces.Discrete(4), spaces.MultiDiscrete([3, 2, 4]), spaces.MultiBinary(5)], ids=str)
@pytest.mark.parametrize("fisher", ["gauss_newton", "kl_hessian", "empirical"])
def test_joint_kl_is_within_its_bound_in_every_space(space: spaces.Space, fisher: str) -> None:
    log, measured = train_measuring_kl(collected(space, fisher=fisher, cg_damping=0.01))
    assert log["trust_region/status"] == "accepted"
    assert 0.0 < measured <= 0.01 * (1 + 1e-3)
    assert log["trust_region/kl"] == pytest.approx(measured, rel=1e-3, abs=1e-7)


def test_mean_reduction_bounds_the_average_over_dimensions() -> None:
    log, measured = train_measuring_kl(collected(BOX, kl_reduction="mean", cg_damping=1e-3))
    assert 0.01 < measured <= 3 * 0.01 * (1 + 1e-3)
    assert log["train/kl_divergence_loss"] == pytest.approx(measured / 3, rel=1e-3)
    assert log["trust_region/kl"] == pytest.approx(measured, rel=1e-3)


def test_several_updates_stay_within_the_bound() -> None:
    model = rollouts.make_model(BOX)
    for _ in range(3):
        _, measured = train_measuring_kl(rollouts.collect(model))
        assert measured <= 0.01 * (1 + 1e-3)
        assert all_finite(model.policy)
    assert np.isfinite(model.rollout_buffer.values).all()
