"""
Recognise the networks whose derivatives are written out (:mod:`sb3_trpo_fvp.layers`), by what they are.

A policy counts only as long as nothing of it is changed: methods of a subclass or an instance, forward hooks, modules of
an own class and parametrised weights all make the answer None, and the general path through autograd is taken.
"""

from collections.abc import Sequence

import torch as th
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import MlpExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn
from torch.nn.modules import module as torch_module

from sb3_trpo_fvp.distributions import registered_family
from sb3_trpo_fvp.layers import KNOWN, StackLinearization

_DISTRIBUTIONS = (
    DiagGaussianDistribution,
    CategoricalDistribution,
    MultiCategoricalDistribution,
    BernoulliDistribution,
)
_ACTOR_METHODS = ("get_distribution", "extract_features", "_get_action_dist_from_latent")
_CRITIC_METHODS = ("predict_values", "extract_features")


def linearize_actor_stack(
    policy: ActorCriticPolicy, observations: PyTorchObs, parameters: Sequence[nn.Parameter]
) -> StackLinearization | None:
    """
    Linearise the parameters φ of the action distribution in the actor's parameters, if the actor is a plain stack.

    :param policy: the policy
    :param observations: n states
    :param parameters: in which to differentiate
    :return: outputs (μ, σ), (logits,) or one (logits) per categorical; None if the network is another
    """
    distribution = policy.action_dist
    own = registered_family(distribution) is not None
    if own or type(distribution) not in _DISTRIBUTIONS or not _unchanged(policy, _ACTOR_METHODS):
        return None
    head = [*_extractor_layers(policy, "policy_net"), policy.action_net]
    found = _stack_and_input(policy, policy.pi_features_extractor, head, observations, parameters)
    if found is None:
        return None
    if isinstance(distribution, DiagGaussianDistribution):
        return StackLinearization(*found, parameters, log_std=policy.log_std)
    if isinstance(distribution, MultiCategoricalDistribution):
        return StackLinearization(*found, parameters, sizes=[int(size) for size in distribution.action_dims])
    return StackLinearization(*found, parameters)


def linearize_critic_stack(
    policy: ActorCriticPolicy, observations: PyTorchObs, parameters: Sequence[nn.Parameter]
) -> StackLinearization | None:
    """
    Linearise the values in the critic's parameters, if the critic is a plain stack.

    :param policy: the policy
    :param observations: n states
    :param parameters: in which to differentiate
    :return: output (values,), shape (n, 1); None if the network is another
    """
    if not _unchanged(policy, _CRITIC_METHODS):
        return None
    head = [*_extractor_layers(policy, "value_net"), policy.value_net]
    found = _stack_and_input(policy, policy.vf_features_extractor, head, observations, parameters)
    return None if found is None else StackLinearization(*found, parameters)


def _stack_and_input(
    policy: ActorCriticPolicy,
    extractor: nn.Module,
    head: list[nn.Module],
    observations: PyTorchObs,
    parameters: Sequence[nn.Parameter],
) -> tuple[list[nn.Module], th.Tensor] | None:
    """Return the layers with the parameters and what is fed to the first of them, or None."""
    wanted = {id(parameter) for parameter in parameters}
    layers = head
    constant = not any(id(parameter) in wanted for parameter in extractor.parameters())
    if not constant:
        if not _is_plain(extractor, NatureCNN) or isinstance(observations, dict):
            return None
        assert isinstance(extractor, NatureCNN)
        if not (_is_plain(extractor.cnn, nn.Sequential) and _is_plain(extractor.linear, nn.Sequential)):
            return None
        layers = [*extractor.cnn, *extractor.linear, *head]
    known = all(type(layer) in KNOWN and _is_plain(layer, type(layer)) for layer in layers)
    ours = {id(parameter) for layer in layers for parameter in layer.parameters()} | {id(getattr(policy, "log_std", None))}
    # Flatten keeps the batch dimension and a convolution pads with zeros, else they are not the layers written out.
    odd = any(
        (isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) != (1, -1))
        or (isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)))
        for layer in layers
    )
    if not known or odd or not wanted <= ours:
        return None
    with th.no_grad():
        if constant:
            return layers, BaseModel.extract_features(policy, observations, extractor)  # type: ignore[arg-type]
        pixels = preprocess_obs(observations, policy.observation_space, normalize_images=policy.normalize_images)
        assert isinstance(pixels, th.Tensor)
        return layers, pixels


def _extractor_layers(policy: ActorCriticPolicy, which: str) -> list[nn.Module]:
    """Return the layers of one half of the MLP extractor, or what makes the caller give up."""
    extractor = policy.mlp_extractor
    if not _is_plain(extractor, MlpExtractor) or any(name in vars(extractor) for name in ("forward_actor", "forward_critic")):
        return [extractor]
    half = getattr(extractor, which)
    return list(half) if _is_plain(half, nn.Sequential) else [half]


def _unchanged(policy: ActorCriticPolicy, methods: tuple[str, ...]) -> bool:
    """Whether these methods are SB3's own, for the class and for the instance."""
    cls = type(policy)
    return all(getattr(cls, name) is getattr(ActorCriticPolicy, name) and name not in vars(policy) for name in methods)


def _is_plain(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether a module is of this very class, and calling it does nothing but its forward method."""
    hooks = (
        *(module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks),
        *(torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks),
        *(torch_module._global_backward_hooks, torch_module._global_backward_pre_hooks),
    )
    return type(module) is cls and "forward" not in vars(module) and not any(hooks)
