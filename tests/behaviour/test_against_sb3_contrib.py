"""sb3-contrib's TRPO as an oracle: the same rollout and the same weights, taken apart into its own pieces."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch as th
from gymnasium import spaces
from sb3_contrib.common.utils import conjugate_gradient_solver
from stable_baselines3.common.distributions import kl_divergence

from sb3_trpo_fvp import TRPO
from tests.helpers import oracles
from tests.helpers.models import DISTRIBUTIONS, model_of
from tests.helpers.training import collect, logged, parameters_of, states_actions_advantages

DAMPING = 0.1


def twins(distribution: str, architecture: str = "mlp", **kwargs: Any) -> tuple[TRPO, sb3_contrib.TRPO]:
    """This package's model and sb3-contrib's, with the same weights and the same rollout buffer."""
    shared = {"n_steps": 256, "batch_size": 512, "cg_damping": DAMPING, "n_critic_updates": 1} | kwargs
    ours = model_of(distribution, architecture, kl_reduction="mean", cg_max_steps=200, cg_residual_tol=1e-6, **shared)
    theirs = model_of(distribution, architecture, algorithm=sb3_contrib.TRPO, cg_max_steps=200, **shared)
    th.manual_seed(3)
    with th.no_grad():
        for parameter in ours.policy.parameters():
            parameter += 0.1 * th.randn_like(parameter)
    collect(ours)
    collect(theirs)
    theirs.policy.load_state_dict(ours.policy.state_dict())
    theirs.rollout_buffer = ours.rollout_buffer
    return ours, theirs


def pieces_of_sb3_contrib(model: sb3_contrib.TRPO, rollout: tuple[th.Tensor, ...]) -> tuple[dict[str, th.Tensor], Any]:
    """The search direction, by parameter name, and the damped product, as its ``train`` computes them."""
    observations, actions, advantages = rollout
    if isinstance(model.action_space, spaces.Discrete):
        actions = actions.long().flatten()
    with th.no_grad():
        old = type(model.policy).get_distribution(model.policy, observations)
        old_log_prob = old.log_prob(actions)
        old_distribution = _copy(old)
    distribution = model.policy.get_distribution(observations)
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    objective = (advantages * th.exp(distribution.log_prob(actions) - old_log_prob)).mean()
    kl = kl_divergence(distribution, old_distribution).mean()
    parameters, gradient, grad_kl, _ = model._compute_actor_grad(kl, objective)
    product = partial(model.hessian_vector_product, parameters, grad_kl)
    flat = conjugate_gradient_solver(product, gradient, max_iter=model.cg_max_steps)
    names = {id(parameter): name for name, parameter in model.policy.named_parameters()}
    slices = th.split(flat, [parameter.numel() for parameter in parameters])
    direction = {names[id(parameter)]: piece.view_as(parameter) for parameter, piece in zip(parameters, slices, strict=True)}
    return direction, product


def _copy(distribution: Any) -> Any:
    """SB3's object is overwritten by the next forward pass; its inner distribution is not."""
    twin = type(distribution).__new__(type(distribution))
    twin.__dict__.update(distribution.__dict__)
    return twin


@pytest.mark.parametrize("architecture", ["mlp", "learned_extractor"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_direction_is_that_of_sb3_contrib(distribution: str, architecture: str) -> None:
    ours, theirs = twins(distribution, architecture, n_critic_updates=0)
    direction, _ = pieces_of_sb3_contrib(theirs, states_actions_advantages(ours))
    before = parameters_of(ours)
    ours.train()
    assert logged(ours)["trust_region/status"] == "accepted"
    after = parameters_of(ours)
    assert {name for name in after if not th.equal(after[name], before[name])} == set(direction)
    step = th.cat([(after[name] - before[name]).flatten() for name in direction]).double()
    reference = th.cat([piece.flatten() for piece in direction.values()]).double()
    assert float(th.nn.functional.cosine_similarity(step, reference, dim=0)) > 0.999


@pytest.mark.parametrize("damped", [False, True])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_step_is_longer_by_the_damping_that_sb3_contrib_leaves_in_beta(distribution: str, damped: bool) -> None:
    """Theirs is √(2δ / sᵀ(H + λI)s) s, of so small a KL that the line search takes all of it; ``damped_beta`` is as long."""
    ours, theirs = twins(distribution, target_kl=1e-4)
    ours.damped_beta = damped
    direction, product = pieces_of_sb3_contrib(theirs, states_actions_advantages(ours))
    s = th.cat([piece.flatten() for piece in direction.values()])
    with_damping = float(s @ product(s))
    undamped = with_damping - DAMPING * float(s @ s)
    before = parameters_of(ours)
    ours.train()
    theirs.train()
    log = logged(ours)
    assert log["trust_region/status"] == "accepted"
    assert logged(theirs)["train/is_line_search_success"] == 1.0
    lengths = [
        float(th.cat([(now[name] - before[name]).flatten() for name in direction]).norm())
        for now in (parameters_of(ours), parameters_of(theirs))
    ]
    expected = 1.0 if damped else np.sqrt(with_damping / undamped)
    assert lengths[0] / log["trust_region/step_fraction"] / lengths[1] == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize(("distribution", "factor"), [("gaussian", 3), ("gsde", 3), ("bernoulli", 3), ("categorical", 1)])
def test_joint_kl_with_divided_bound_and_multiplied_damping_is_the_mean_reduction(distribution: str, factor: int) -> None:
    """sb3-contrib's (δ, λ) is this package's (A·δ, A·λ)."""
    steps = []
    for reduction, scale in (("mean", 1), ("sum", factor)):
        model = model_of(
            distribution, kl_reduction=reduction, target_kl=0.002 * scale, cg_damping=0.1 * scale, n_critic_updates=0
        )
        collect(model)
        before = parameters_of(model)
        model.train()
        steps.append(th.cat([(after - before[name]).flatten() for name, after in parameters_of(model).items()]))
    th.testing.assert_close(steps[0], steps[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer", [th.optim.Adam, th.optim.SGD])
@pytest.mark.parametrize("distribution", ["gaussian", "categorical"])
def test_critic_fit_is_that_of_sb3_contrib(distribution: str, optimizer: type[th.optim.Optimizer]) -> None:
    """With the whole rollout as one minibatch its order, which the two draw differently, is without effect."""
    # Adam takes no notice of the gradient's scale; plain descent does.
    ours, theirs = twins(distribution, n_critic_updates=5, learning_rate=1e-2, policy_kwargs={"optimizer_class": optimizer})
    ours.train()
    theirs.train()
    a, b, actor = parameters_of(ours), parameters_of(theirs), oracles.actor_parameters(ours.policy)
    critic = [name for name in a if name not in actor]
    assert critic
    for name in critic:
        th.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)
    assert logged(ours)["train/value_loss"] == pytest.approx(logged(theirs)["train/value_loss"], rel=1e-4)
    assert logged(ours)["train/explained_variance"] == pytest.approx(logged(theirs)["train/explained_variance"], abs=1e-5)


@pytest.mark.parametrize("distribution", ["gaussian", "categorical"])
def test_every_key_that_sb3_contrib_logs_is_logged(distribution: str) -> None:
    ours, theirs = twins(distribution, n_critic_updates=1)
    ours.train()
    theirs.train()
    assert set(logged(theirs)) <= set(logged(ours))


def test_constructor_takes_sb3_contribs_arguments_in_its_order() -> None:
    import inspect

    reference = list(inspect.signature(sb3_contrib.TRPO.__init__).parameters.values())
    own = list(inspect.signature(TRPO.__init__).parameters.values())
    assert [p.name for p in own[: len(reference)]] == [p.name for p in reference]
    # Which defaults differ: tests/test_trpo_defaults.py.
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in own[len(reference) :])


def test_sb3_contribs_constraint_is_the_joint_kl_divided_by_the_action_dimension() -> None:
    """The reason for ``kl_reduction``: at the same ``target_kl`` its true KL is up to A times as much."""
    ours, theirs = twins("gaussian")
    observations, _, _ = states_actions_advantages(ours)
    old = oracles.distributions(theirs.policy, observations)
    theirs.train()
    kl = oracles.joint_kl(old, oracles.distributions(theirs.policy, observations))
    assert kl > theirs.target_kl
