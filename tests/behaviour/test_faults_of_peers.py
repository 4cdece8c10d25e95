"""
What is wrong in sb3-contrib 2.9's TRPO, shown by running it, and not wrong here.

Each test first catches the fault in the real thing (or in the lines it consists of), so that a test that could not fail
would be seen.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO as ContribTRPO
from sb3_contrib.common.utils import conjugate_gradient_solver
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_trpo_fvp import TRPO, FisherOperator, StepStatus, conjugate_gradient, fisher_operator
from tests.helpers.environments import DICT, IMAGE
from tests.helpers.oracles import distributions, joint_kl
from tests.helpers.training import changed, collected, rollout, snapshot, train, train_measuring_kl

# Numpy's, in sb3-contrib: the mean of no critic losses, and the root of a negative number.
pytestmark = pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
BOX6 = spaces.Box(-1.0, 1.0, (6,))


@pytest.mark.parametrize("action_space", [BOX6, spaces.Box(-1.0, 1.0, (17,)), spaces.MultiBinary(8)], ids=str)
def test_the_kl_is_of_the_joint_action_and_not_its_average_over_dimensions(action_space: spaces.Space) -> None:
    _, theirs = train_measuring_kl(collected(action_space, algorithm=ContribTRPO, cg_damping=1e-3))
    log, ours = train_measuring_kl(collected(action_space, cg_damping=1e-3))
    assert theirs > 3 * 0.01
    assert 0.0 < ours <= 0.01 * (1 + 1e-4)
    assert log["trust_region/kl"] == pytest.approx(ours, rel=1e-3)


def test_mean_reduction_takes_the_step_of_sb3_contrib() -> None:
    """contrib(δ, λ) is joint-KL TRPO(Aδ, Aλ), but for the damped curvature in its β."""
    dimensions, delta, damping = 6, 0.002, 0.1
    steps, models = [], []
    cases: list[tuple[Any, dict[str, Any]]] = [
        (ContribTRPO, {"target_kl": delta, "cg_damping": damping}),
        (TRPO, {"target_kl": delta, "cg_damping": damping, "kl_reduction": "mean", "cg_residual_tol": 0.0}),
        (TRPO, {"target_kl": dimensions * delta, "cg_damping": dimensions * damping, "cg_residual_tol": 0.0}),
    ]
    for algorithm, kwargs in cases:
        if algorithm is TRPO:
            kwargs["cg_preconditioner"] = "none"
        model = collected(BOX6, algorithm=algorithm, n_steps=256, cg_max_steps=30, n_critic_updates=0, **kwargs)
        before = snapshot(model.policy)
        observations = rollout(model).observations
        log = train(model)
        assert log["train/is_line_search_success"] == 1.0
        steps.append(th.cat([(p.detach() - before[name]).flatten() for name, p in model.policy.named_parameters()]))
        models.append((model, before, observations))
    theirs, mean, joint = (step.double() for step in steps)
    assert th.allclose(mean, joint, rtol=1e-3, atol=1e-6 * float(joint.abs().max()))
    assert th.cosine_similarity(theirs, mean, dim=0) > 1 - 1e-4

    model, before, observations = models[1]
    model.policy.load_state_dict(before)
    fisher = fisher_operator(model.policy, observations)
    s = th.cat(
        [
            mean_part.flatten()
            for mean_part, p in zip(
                th.split(mean.float(), [p.numel() for p in model.policy.parameters()]), model.policy.parameters(), strict=True
            )
            if any(p is actor for actor in fisher.parameters)
        ]
    )
    curvature = float(s @ (fisher @ s)) / dimensions
    shrunk = (curvature / (curvature + damping * float(s @ s))) ** 0.5
    assert float(theirs.norm() / mean.norm()) == pytest.approx(shrunk, rel=1e-3)


def test_the_old_policy_comes_first_in_the_kl() -> None:
    """With a bound so wide that both directions of the KL differ."""
    kwargs: dict[str, Any] = {"n_steps": 256, "target_kl": 0.5, "cg_damping": 1e-3}
    ours: dict[str, Any] = {"cg_preconditioner": "none"}
    for algorithm, old_first, more in ((ContribTRPO, False, {}), (TRPO, True, ours)):
        model = collected(spaces.Box(-1.0, 1.0, (1,)), algorithm=algorithm, **kwargs, **more)
        observations = rollout(model).observations
        old = distributions(model.policy, observations)
        logged_kl = train(model)["train/kl_divergence_loss"]
        new = distributions(model.policy, observations)
        forward, backward = joint_kl(old, new), joint_kl(new, old)
        assert abs(forward - backward) > 0.05 * forward
        assert logged_kl == pytest.approx(forward if old_first else backward, rel=1e-3)


def test_dict_observations_can_be_sub_sampled() -> None:
    with pytest.raises((TypeError, KeyError)):  # a slice as a dict key: TypeError until Python 3.12 made slices hashable
        collected(BOX6, DICT, algorithm=ContribTRPO, sub_sampling_factor=2).train()
    log, _ = train_measuring_kl(collected(BOX6, DICT, sub_sampling_factor=2, fisher_sub_sampling_factor=2))
    assert log["trust_region/status"] == "accepted"


def test_the_products_alone_can_be_thinned() -> None:
    """sb3-contrib's factor thins gradient and line search too, for which the thesis that it cites gives no licence."""
    seen: dict[str, set[int]] = {}
    for name, algorithm, kwargs in (
        ("theirs", ContribTRPO, {"sub_sampling_factor": 4}),
        ("ours", TRPO, {"fisher_sub_sampling_factor": 4, "fisher": "kl_hessian"}),
    ):
        model = collected(BOX6, algorithm=algorithm, n_critic_updates=0, **kwargs)
        original = model.policy.get_distribution
        sizes: set[int] = set()
        model.policy.get_distribution = lambda obs, f=original, sizes=sizes: sizes.add(len(obs)) or f(obs)
        model.train()
        seen[name] = sizes - {1}
    assert seen == {"theirs": {32}, "ours": {128, 32}}


class ValueProjection(BaseFeaturesExtractor):
    """A layer of the actor whose name contains "value": a query-key-value attention, say."""

    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space, features_dim=8)
        self.value_proj = nn.Linear(4, 8)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.tanh(self.value_proj(observations))


def test_a_layer_called_value_is_the_actors_where_the_actor_uses_it() -> None:
    kwargs: dict[str, Any] = {"policy_kwargs": {"features_extractor_class": ValueProjection}}
    layer = {"features_extractor.value_proj.weight", "features_extractor.value_proj.bias"}

    def moved(algorithm: Callable[..., Any], **more: Any) -> set[str]:
        model = collected(BOX6, algorithm=algorithm, **kwargs, **more)
        before = snapshot(model.policy)
        model.train()
        return layer & changed(before, model.policy)

    assert moved(ContribTRPO, n_critic_updates=0) == set()
    assert moved(TRPO, n_critic_updates=0) == layer

    # The critic alone: a bound so tight that the actor's own step is less than the rounding of its parameters.
    still: dict[str, Any] = {"line_search_max_iter": 1, "target_kl": 1e-30}
    assert moved(ContribTRPO, **still) == layer
    assert moved(TRPO, **still) == set()


class Dropout(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space, features_dim=8)
        self.linear, self.dropout = nn.Linear(4, 8), nn.Dropout(0.5)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.dropout(self.linear(observations))


def test_old_and_new_policy_are_computed_in_the_mode_of_the_rollout() -> None:
    """With dropout redrawn in between, sb3-contrib's KL of a step of zero is not zero."""
    modes: dict[str, set[bool]] = {"theirs": set(), "ours": set()}
    for who, algorithm in (("theirs", ContribTRPO), ("ours", TRPO)):
        kwargs = {"features_extractor_class": Dropout}
        model = collected(BOX6, algorithm=algorithm, policy_kwargs=kwargs, n_critic_updates=0)
        model.policy.features_extractor.dropout.register_forward_hook(lambda m, *_, w=who: modes[w].add(m.training))
        model.train()
    assert modes == {"theirs": {True}, "ours": {False}}


def test_autograd_graphs_do_not_grow_with_the_number_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    original = th.autograd.grad

    def counting(*args: Any, **kwargs: Any) -> Any:
        counts[-1] += bool(kwargs.get("create_graph"))
        return original(*args, **kwargs)

    monkeypatch.setattr(th.autograd, "grad", counting)
    deep = {"policy_kwargs": {"net_arch": {"pi": [8] * 6, "vf": [8]}}}
    for algorithm, kwargs in ((ContribTRPO, {}), (TRPO, {"fisher": "kl_hessian"}), (TRPO, {"fisher": "gauss_newton"})):
        counts.append(0)
        collected(BOX6, algorithm=algorithm, **deep, **kwargs).train()
    assert counts[0] >= 2 * 7 + 1
    assert counts[1] == 1
    assert counts[2] <= 1


def test_an_update_of_the_actor_draws_no_random_number() -> None:
    for algorithm, draws in ((ContribTRPO, True), (TRPO, False)):
        model = collected(BOX6, algorithm=algorithm, n_critic_updates=0)
        state = th.get_rng_state()
        model.train()
        assert th.equal(state, th.get_rng_state()) is not draws


def test_no_gradient_means_no_step() -> None:
    """sb3-contrib solves H x = 0 from a random start and scales what is left of it up to the whole trust region."""
    h = th.diag(th.linspace(1e-5, 1.0, 50, dtype=th.float64))
    g = th.zeros(50, dtype=th.float64)
    th.manual_seed(0)
    x = conjugate_gradient_solver(lambda v: h @ v, g, max_iter=15)
    step = x * (2 * 0.01 / float(x @ (h @ x))) ** 0.5
    assert float(0.5 * step @ (h @ step)) == pytest.approx(0.01)
    assert float(conjugate_gradient(lambda v: h @ v, g, max_steps=15).value.abs().max()) == 0.0

    model = collected(BOX6, normalize_advantage=False, n_critic_updates=0)
    model.rollout_buffer.advantages[:] = 0.0
    before = snapshot(model.policy)
    assert train(model)["trust_region/status"] == "zero_gradient"
    assert changed(before, model.policy) == set()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_conjugate_gradients_stop_at_a_relative_residual(scale: float) -> None:
    """sb3-contrib compares ‖r‖² to 1e-10, whatever ‖g‖ is: too early for a small gradient, never for a large one."""
    th.manual_seed(0)
    h = th.diag(th.linspace(0.1, 1.0, 100, dtype=th.float64))
    g = scale * th.randn(100, dtype=th.float64)
    products = {"theirs": 0, "ours": 0}

    def multiply(who: str) -> Callable[[th.Tensor], th.Tensor]:
        def product(v: th.Tensor) -> th.Tensor:
            products[who] += 1
            return h @ v

        return product

    x = conjugate_gradient_solver(multiply("theirs"), g, max_iter=100)
    relative = float((g - h @ x).norm() / g.norm())
    assert relative > 0.5 if scale < 1e-3 else products["theirs"] > 20
    solution = conjugate_gradient(multiply("ours"), g, max_steps=100, rtol=0.05)
    assert products["ours"] == 5
    assert solution.residual_norm / float(g.norm()) <= 0.05


def test_a_direction_without_curvature_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """sb3-contrib divides by sᵀHs: zero raises, and the root of a negative number is written into the policy."""
    for curvature, error in ((0.0, ZeroDivisionError), (-1.0, ValueError)):
        theirs = collected(BOX6, algorithm=ContribTRPO)
        if curvature == 0.0:
            theirs.rollout_buffer.advantages[:] = 0.0
        monkeypatch.setattr(
            type(theirs), "hessian_vector_product", lambda self, params, grad_kl, v, retain_graph=True, c=curvature: c * v
        )
        with pytest.raises(error):
            theirs.train()
    assert any(bool(th.isnan(p).any()) for p in theirs.policy.parameters())

    for curvature in (0.0, -1.0):

        class Scaled(FisherOperator):
            factor = curvature

            def matvec(self, v: th.Tensor) -> th.Tensor:
                return self.factor * v

        ours = collected(BOX6, fisher=Scaled, cg_damping=0.0, n_critic_updates=0)
        before = snapshot(ours.policy)
        with pytest.warns(UserWarning, match="cg_damping"):
            assert train(ours)["trust_region/status"] == "nonpositive_curvature"
        assert changed(before, ours.policy) == set()


def test_the_critic_does_not_go_through_the_buffer_for_every_minibatch(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for algorithm in (ContribTRPO, TRPO):
        model = collected(BOX6, algorithm=algorithm, n_critic_updates=5)
        original = model.rollout_buffer._get_samples
        calls: list[int] = []
        monkeypatch.setattr(model.rollout_buffer, "_get_samples", lambda i, f=original, c=calls: c.append(1) or f(i))
        model.train()
        counts.append(len(calls))
    assert counts[0] == 1 + 5 * 4
    assert counts[1] <= 2


def test_a_shared_extractor_is_not_backpropagated_for_the_critic() -> None:
    calls = []
    for algorithm in (ContribTRPO, TRPO):
        model = collected(BOX6, IMAGE, algorithm=algorithm, policy="CnnPolicy", n_critic_updates=5, policy_kwargs={})
        with_graph: list[int] = []
        model.policy.features_extractor.register_forward_hook(lambda *_, c=with_graph: c.append(th.is_grad_enabled()))
        model.train()
        calls.append(sum(with_graph))
    # Theirs: 20 minibatches and the actor; ours: the actor alone, however many minibatches there are.
    assert calls[0] >= 20
    assert calls[1] < 10


def test_what_they_log_is_logged_here_and_what_they_do_not_is_too() -> None:
    theirs = train(collected(BOX6, algorithm=ContribTRPO))
    ours = train(collected(BOX6))
    assert set(theirs) <= set(ours)
    missing = {"cg_steps", "cg_residual", "backtracks", "beta", "predicted_improvement", "entropy", "actor_seconds"}
    assert {f"trust_region/{key}" for key in missing} <= set(ours) - set(theirs)


def test_predicted_improvement_is_shortened_once() -> None:
    """skrl multiplies its expectation by α at each backtrack, and by the product of all of them at the next."""
    factor, backtracks, full = 0.5, 3, 8.0
    compounded, alpha = full, 1.0
    for _ in range(backtracks):
        alpha *= factor
        compounded *= alpha
    assert compounded < full * factor**backtracks

    wide = 100.0
    model = collected(BOX6, target_kl=wide, line_search_shrinking_factor=factor, line_search_max_iter=20, cg_damping=1e-3)
    log = train(model)
    assert log["trust_region/backtracks"] > 1
    assert log["trust_region/step_fraction"] == factor ** log["trust_region/backtracks"]
    # The same direction under another bound: what is predicted of a step is linear in its length.
    other = train(collected(BOX6, target_kl=1e-4, line_search_shrinking_factor=0.9, cg_damping=1e-3))
    lengths = [update["trust_region/beta"] * update["trust_region/step_fraction"] for update in (log, other)]
    predicted = [update["trust_region/predicted_improvement"] for update in (log, other)]
    assert predicted[0] / lengths[0] == pytest.approx(predicted[1] / lengths[1], rel=1e-5)


def test_residual_and_direction_are_not_the_same_tensor() -> None:
    """MushroomRL starts with ``p = r``: an update of the residual in place then changes the direction too."""
    h = th.diag(th.tensor([1.0, 2.0, 5.0], dtype=th.float64))
    b = th.ones(3, dtype=th.float64)
    x, r = th.zeros(3, dtype=th.float64), b.clone()
    p = r
    for _ in range(3):
        ap, rr = h @ p, r @ r
        alpha = rr / (p @ ap)
        x = x + alpha * p
        r -= alpha * ap
        p = r + (r @ r) / rr * p
    assert not th.allclose(h @ x, b)
    assert th.allclose(h @ conjugate_gradient(lambda v: h @ v, b, max_steps=3, rtol=0.0).value, b)


def test_nan_is_named_and_not_replaced_by_zero() -> None:
    """garage writes ``step[isnan(step)] = 0``: the part of the step that is left need not even point uphill."""
    step = np.array([np.nan, -1.0])
    gradient = np.array([10.0, 1.0])
    step[np.isnan(step)] = 0.0
    assert step @ gradient < 0

    model = collected(BOX6, n_critic_updates=0)
    model.rollout_buffer.advantages[0, 0] = np.nan
    with pytest.warns(UserWarning, match="nonfinite_advantages"):
        log = train(model)
    assert log["trust_region/status"] == StepStatus.NONFINITE_ADVANTAGES.label
