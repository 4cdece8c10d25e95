"""The shorter ways are chosen by what a policy is, and come to the same: a forward hook that does nothing forbids them."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy
from torch import nn

from sb3_trpo_fvp import TRPO, fisher_operator
from sb3_trpo_fvp.linearization.actor import LinearizedActor
from sb3_trpo_fvp.linearization.recognition import actor_stack, critic_stack
from sb3_trpo_fvp.linearization.stack import StackLinearization
from sb3_trpo_fvp.policies import split_parameters
from sb3_trpo_fvp.trust_region import SurrogateProblem
from tests.conftest import ACTION_SPACES, DISTRIBUTIONS, collect, make_batch, make_model, make_policy, parameters_of

STACKS = [name for name, (_, use_sde, _) in DISTRIBUTIONS.items() if not use_sde]
KINDS = ["gauss_newton", "empirical"]


def forbid(policy: ActorCriticPolicy) -> None:
    """A hook on a layer of each network: calling the layers is no longer the same as their arithmetic."""
    for layer in (policy.action_net, policy.value_net):
        layer.register_forward_hook(lambda module, inputs, output: None)


def is_stack(policy: ActorCriticPolicy, observations: th.Tensor) -> bool:
    return actor_stack(policy, split_parameters(policy, observations).actor) is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distribution", STACKS)
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.ELU, nn.SiLU, nn.GELU, nn.LeakyReLU])
def test_written_out_products_are_those_of_autograd(activation: type[nn.Module], distribution: str, kind: str) -> None:
    kwargs = {"activation_fn": activation}
    space, _, _ = DISTRIBUTIONS[distribution]
    th.manual_seed(0)
    policy = ActorCriticPolicy(spaces.Box(-9, 9, (4,)), ACTION_SPACES[space], lambda _: 1e-3, **kwargs)
    observations, actions = make_batch(policy, 40)
    assert is_stack(policy, observations)
    op = fisher_operator(policy, observations, actions, kind=kind)
    v = th.randn(op.shape[0])
    short, chunked = op @ v, fisher_operator(policy, observations, actions, kind=kind, chunk_size=7) @ v
    forbid(policy)
    assert not is_stack(policy, observations)
    plain = fisher_operator(policy, observations, actions, kind=kind) @ v
    rebuilt = fisher_operator(policy, observations, actions, kind=kind, chunk_size=7) @ v
    # A sum over 40 states and two matrix products per layer, in single precision.
    tolerance = 100 * th.finfo(th.float32).eps * float(plain.norm())
    for other in (short, chunked, rebuilt):
        assert float((other - plain).norm()) < tolerance


def test_too_many_activations_are_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = ActorCriticPolicy(spaces.Box(-9, 9, (4,)), ACTION_SPACES["box"], lambda _: 1e-3)
    observations, actions = make_batch(policy, 40)
    kept = fisher_operator(policy, observations, actions, chunk_size=7)
    assert kept.actor.is_small
    monkeypatch.setattr("sb3_trpo_fvp.linearization.actor._MOST_ACTIVATIONS", 40)
    anew = fisher_operator(policy, observations, actions, chunk_size=7)
    assert not anew.actor.is_small
    v = th.randn(kept.shape[0])
    assert th.equal(kept @ v, anew @ v)
    first = slice(0, 7)
    assert kept.actor.linearize(first) is kept.actor.linearize(first)
    assert anew.actor.linearize(first) is not anew.actor.linearize(first)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [True, False])
def test_written_out_convolutions_are_those_of_autograd(shared: bool, kind: str) -> None:
    th.manual_seed(0)
    space = spaces.Box(0, 255, (2, 40, 40), np.uint8)
    policy = ActorCriticCnnPolicy(space, spaces.Discrete(3), lambda _: 1e-3, share_features_extractor=shared)
    space.seed(0)
    observations = th.as_tensor(np.stack([space.sample() for _ in range(6)]))
    actions = th.randint(0, 3, (6, 1)).float()
    assert is_stack(policy, observations)
    v = th.randn(fisher_operator(policy, observations).shape[0])
    short = fisher_operator(policy, observations, actions, kind=kind) @ v
    forbid(policy)
    plain = fisher_operator(policy, observations, actions, kind=kind) @ v
    assert float((short - plain).norm()) < 300 * th.finfo(th.float32).eps * float(plain.norm())


class Doubled(nn.Linear):
    """No plain linear layer."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        return 2.0 * super().forward(x)


class Warmer(ActorCriticPolicy):
    """Changes the distribution that the layers lead to."""

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Any:
        return self.action_dist.proba_distribution(self.action_net(latent_pi), self.log_std + latent_pi.mean())


def doubled_layer(policy: ActorCriticPolicy) -> None:
    policy.action_net = Doubled(policy.action_net.in_features, policy.action_net.out_features)


def doubling_hook(policy: ActorCriticPolicy) -> None:
    policy.action_net.register_forward_hook(lambda module, inputs, output: 2.0 * output)


def spectral_norm(policy: ActorCriticPolicy) -> None:
    nn.utils.parametrizations.spectral_norm(policy.mlp_extractor.policy_net[0])
    policy.eval()


def patched_forward(policy: ActorCriticPolicy) -> None:
    forward = policy.action_net.forward
    policy.action_net.forward = lambda x: forward(x) * x.mean()  # type: ignore[method-assign]


def patched_method(policy: ActorCriticPolicy) -> None:
    extract = policy.mlp_extractor.forward_actor
    policy.mlp_extractor.forward_actor = lambda features: extract(features) * 3.0  # type: ignore[method-assign]


def subclass(policy: ActorCriticPolicy) -> None:
    policy.__class__ = Warmer


@pytest.mark.parametrize(
    "change",
    [doubled_layer, doubling_hook, spectral_norm, patched_forward, patched_method, subclass],
    ids=lambda f: f.__name__,
)
def test_what_is_changed_takes_the_general_path(change: Callable[[ActorCriticPolicy], None]) -> None:
    policy = ActorCriticPolicy(spaces.Box(-9, 9, (4,)), spaces.Box(-1, 1, (3,)), lambda _: 1e-3)
    th.manual_seed(0)
    observations = th.randn(30, 4)
    change(policy)
    assert not is_stack(policy, observations)
    exact = fisher_operator(policy, observations, kind="kl_hessian")
    v = th.randn(exact.shape[0])
    reference = exact @ v
    error = fisher_operator(policy, observations) @ v - reference
    assert float(error.norm()) < 1e-5 * float(reference.norm())


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ELU])
def test_an_inplace_activation_is_multiplied_rightly(activation: type[nn.Module]) -> None:
    policy = ActorCriticPolicy(spaces.Box(-9, 9, (4,)), spaces.Box(-1, 1, (3,)), lambda _: 1e-3, activation_fn=activation)
    for module in policy.modules():
        if isinstance(module, activation):
            module.inplace = True
    th.manual_seed(0)
    observations = th.randn(30, 4)
    exact = fisher_operator(policy, observations, kind="kl_hessian")
    v = th.randn(exact.shape[0])
    reference = exact @ v
    assert float((fisher_operator(policy, observations) @ v - reference).norm()) < 1e-5 * float(reference.norm())


@pytest.mark.parametrize("critic", ["adam", "gauss_newton"])
@pytest.mark.parametrize("fisher", KINDS)
@pytest.mark.parametrize("distribution", STACKS)
def test_an_update_is_the_same_to_rounding(distribution: str, fisher: str, critic: str) -> None:
    after = []
    for short in (True, False):
        # Solved to the end: there is a preconditioner on one side only.
        exactly = {"cg_max_steps": 300, "cg_residual_tol": 1e-12}
        model = make_model(distribution, dtype=th.float64, fisher=fisher, critic=critic, **exactly)
        collect(model)
        assert critic_stack(model.policy, ()) is not None
        if not short:
            forbid(model.policy)
        np.random.seed(3)
        model.train()
        after.append(parameters_of(model))
    for name, parameter in after[0].items():
        assert th.allclose(parameter, after[1][name], rtol=1e-6, atol=1e-8), name


class TimeLimited(gym.Wrapper[Any, Any, Any, Any]):
    """Ends by truncation after 7 steps, by termination now and then, so that both are met."""

    def reset(self, **kwargs: Any) -> Any:
        self.steps = 0
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        observation, reward, _, _, info = super().step(action)
        self.steps += 1
        return observation, reward, bool(observation[0] > 1.5), self.steps >= 7, info


@pytest.mark.parametrize(
    ("distribution", "sde_sample_freq"), [*((name, -1) for name in DISTRIBUTIONS), ("gsde", 4), ("squashed_gsde", 4)]
)
def test_rollouts_draw_the_same_actions_and_hold_the_same_numbers(distribution: str, sde_sample_freq: int) -> None:
    from tests.conftest import RandomStates

    space, use_sde, policy_kwargs = DISTRIBUTIONS[distribution]
    buffers = []
    for short in (True, False):
        env = make_vec_env(lambda: TimeLimited(RandomStates(ACTION_SPACES[space])), n_envs=3, seed=0)
        sde = {"use_sde": use_sde, "sde_sample_freq": sde_sample_freq, "policy_kwargs": policy_kwargs}
        model = TRPO("MlpPolicy", env, n_steps=64, batch_size=96, seed=0, device="cpu", **sde)
        if not short:
            forbid(model.policy)
        collect(model)
        buffers.append(model.rollout_buffer)
        episodes = model.ep_info_buffer
        assert episodes is not None
        assert len(episodes) > 10
    for name in ("observations", "actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns"):
        # The log-probability undoes the squashing, which near ±1 magnifies rounding without bound.
        rounding = 1e-2 if name == "log_probs" and distribution == "squashed_gsde" else 1e-4
        one, other = (getattr(buffer, name) for buffer in buffers)
        np.testing.assert_allclose(one, other, rtol=rounding, atol=rounding / 10, err_msg=name)
    assert buffers[0].full


class Recorder(BaseCallback):
    """Looks at what SB3's and users' callbacks look at."""

    def __init__(self, stop_at: int = 10**9):
        super().__init__()
        self.stop_at = stop_at
        self.seen: list[tuple[Any, ...]] = []

    def _on_step(self) -> bool:
        found = self.locals
        self.seen.append(
            (found["n_steps"], found["rewards"].copy(), found["dones"].copy(), found["actions"].copy(), len(found["infos"]))
        )
        assert found["self"] is self.model
        assert found["new_obs"].shape == (2, 4)
        return len(self.seen) < self.stop_at


def test_callbacks_see_the_same_and_can_stop() -> None:
    seen = []
    for short in (True, False):
        model = make_model("gaussian", n_steps=128)
        if not short:
            forbid(model.policy)
        recorder = Recorder(stop_at=100)
        model.learn(10_000, callback=recorder)
        assert model.num_timesteps == 200
        seen.append(recorder.seen)
    for one, other in zip(*seen, strict=True):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


def test_a_hook_on_the_policy_is_called_at_every_step() -> None:
    model = make_model("gaussian")
    calls: list[int] = []
    model.policy.register_forward_hook(lambda module, inputs, output: calls.append(1))
    collect(model)
    assert len(calls) == model.n_steps


def test_observations_that_are_not_finite_stop_the_rollout() -> None:
    model = make_model("gaussian")
    model._setup_learn(64)
    model._last_obs[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"`env` must return finite observations, got NaN or infinity at step 0"):
        collect_from_last(model)


def collect_from_last(model: Any) -> None:
    callback = model._init_callback(None)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)


@pytest.mark.parametrize(
    ("optimizer", "kwargs", "fused"),
    [(th.optim.Adam, {}, None), (th.optim.AdamW, {"foreach": True}, None), (th.optim.Adam, {"fused": False}, False)],
)
def test_the_optimizer_keeps_what_it_was_given(optimizer: Any, kwargs: dict[str, Any], fused: bool | None) -> None:
    model = make_model("gaussian", policy_kwargs={"optimizer_class": optimizer, "optimizer_kwargs": kwargs})
    before = [{key: value for key, value in group.items() if key != "params"} for group in model.policy.optimizer.param_groups]
    collect(model)
    model.train()
    after = [{key: value for key, value in group.items() if key != "params"} for group in model.policy.optimizer.param_groups]
    assert before == after
    assert after[0]["fused"] is fused


@pytest.mark.parametrize("kind", KINDS)
def test_chunk_size_has_an_interval(kind: str) -> None:
    policy = make_policy("gaussian")
    observations, actions = make_batch(policy)
    with pytest.raises(ValueError, match=r"`chunk_size` must be in \[1, ∞\), got 0"):
        fisher_operator(policy, observations, actions, kind=kind, chunk_size=0)


# --- one forward pass for whoever asks ---


def test_gradient_products_and_preconditioner_share_what_the_operator_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy("gaussian")
    observations, actions = make_batch(policy, 20)
    operator = fisher_operator(policy, observations, actions)
    forwards: list[int] = []
    relinearize = StackLinearization.relinearize
    monkeypatch.setattr(StackLinearization, "relinearize", lambda self, x: forwards.append(len(x)) or relinearize(self, x))  # type: ignore[func-returns-value]
    problem = SurrogateProblem(operator.actor, actions, th.linspace(-1, 1, 20, dtype=th.float64))
    problem.gradient()
    operator.preconditioner(0.1)
    assert forwards == []


def test_a_surrogate_of_its_own_has_the_gradient_of_one_that_shares() -> None:
    policy = make_policy("gaussian")
    observations, actions = make_batch(policy, 20)
    actor = LinearizedActor(policy, observations, fisher_operator(policy, observations).parameters)
    problem = SurrogateProblem(actor, actions, th.linspace(-1, 1, 20, dtype=th.float64))
    assert problem.evaluate().kl == 0.0
    operator = fisher_operator(policy, observations, actions)
    shared = SurrogateProblem(operator.actor, actions, th.linspace(-1, 1, 20, dtype=th.float64))
    assert th.equal(shared.gradient(), problem.gradient())
