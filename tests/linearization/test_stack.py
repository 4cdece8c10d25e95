"""The shorter ways are chosen by what a policy is, and come to the same: a forward hook that does nothing forbids them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy
from torch import nn

from sb3_trpo_fvp import fisher_operator
from sb3_trpo_fvp.linearization.recognition import actor_stack, critic_stack
from sb3_trpo_fvp.policies import split_parameters
from tests.helpers.environments import ACTION_SPACES
from tests.helpers.models import DISTRIBUTIONS, forbid_stacks, make_batch, model_of
from tests.helpers.training import collect, parameters_of

STACKS = [name for name, (_, use_sde, _) in DISTRIBUTIONS.items() if not use_sde]
KINDS = ["gauss_newton", "empirical"]


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
    forbid_stacks(policy)
    assert not is_stack(policy, observations)
    plain = fisher_operator(policy, observations, actions, kind=kind) @ v
    rebuilt = fisher_operator(policy, observations, actions, kind=kind, chunk_size=7) @ v
    # A sum over 40 states and two matrix products per layer, in single precision.
    tolerance = 100 * th.finfo(th.float32).eps * float(plain.norm())
    for other in (short, chunked, rebuilt):
        assert float((other - plain).norm()) < tolerance


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
    forbid_stacks(policy)
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
        model = model_of(distribution, dtype=th.float64, fisher=fisher, critic=critic, **exactly)
        collect(model)
        assert critic_stack(model.policy, ()) is not None
        if not short:
            forbid_stacks(model.policy)
        np.random.seed(3)
        model.train()
        after.append(parameters_of(model))
    for name, parameter in after[0].items():
        assert th.allclose(parameter, after[1][name], rtol=1e-6, atol=1e-8), name
