"""
Recognise the networks whose derivatives are written out (:mod:`sb3_trpo_fvp.linearization.layers`), by what they are.

A policy counts only as long as nothing of it is changed: methods of a subclass or an instance, forward hooks, modules of
an own class and parametrised weights all make the answer None, and the general path through autograd is taken.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch as th
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn
from torch.nn.modules import module as torch_module

from sb3_trpo_fvp.distributions import registered_family
from sb3_trpo_fvp.linearization.layers import KNOWN
from sb3_trpo_fvp.linearization.stack import Stack
from sb3_trpo_fvp.policies import has_methods_of_sb3

_DISTRIBUTIONS = (
    DiagGaussianDistribution,
    CategoricalDistribution,
    MultiCategoricalDistribution,
    BernoulliDistribution,
)
_ACTOR_METHODS = ("get_distribution", "extract_features", "_get_action_dist_from_latent")
_CRITIC_METHODS = ("predict_values", "extract_features")


def actor_stack(policy: ActorCriticPolicy, parameters: Sequence[nn.Parameter]) -> Stack | None:
    """
    Recognise an actor: observations to the parameters φ of the action distribution.

    :param policy: the policy
    :param parameters: in which to differentiate
    :return: the stack, None if the network is another
    """
    distribution = policy.action_dist
    own = registered_family(distribution) is not None
    if own or type(distribution) not in _DISTRIBUTIONS or not has_methods_of_sb3(policy, _ACTOR_METHODS):
        return None
    head = [*_extractor_layers(policy, "policy_net"), policy.action_net]
    log_std = policy.log_std if isinstance(distribution, DiagGaussianDistribution) else None
    stack = _stack(policy, policy.pi_features_extractor, head, parameters, log_std)
    if stack is not None and isinstance(distribution, MultiCategoricalDistribution):
        stack = replace(stack, sizes=tuple(int(size) for size in distribution.action_dims))
    return stack


def critic_stack(policy: ActorCriticPolicy, parameters: Sequence[nn.Parameter]) -> Stack | None:
    """
    Recognise a critic: observations to values (n, 1).

    :param policy: the policy
    :param parameters: in which to differentiate
    :return: the stack, None if the network is another
    """
    if not has_methods_of_sb3(policy, _CRITIC_METHODS):
        return None
    head = [*_extractor_layers(policy, "value_net"), policy.value_net]
    return _stack(policy, policy.vf_features_extractor, head, parameters)


def is_plain_rollout_policy(policy: ActorCriticPolicy) -> bool:
    """
    Recognise a policy that acts on flat observations through a stack and samples from a distribution of SB3's own.

    :param policy: the policy
    :return: whether ``policy.forward`` does nothing else
    """
    extractors = (policy.features_extractor, policy.pi_features_extractor, policy.vf_features_extractor)
    layers = [*_extractor_layers(policy, "policy_net"), *_extractor_layers(policy, "value_net")]
    return (
        _is_plain(policy, type(policy))
        and has_methods_of_sb3(policy, ("forward", "reset_noise", *_ACTOR_METHODS, *_CRITIC_METHODS))
        and all(_is_plain(extractor, FlattenExtractor) and _is_known(extractor.flatten) for extractor in extractors)  # type: ignore[arg-type]
        and all(map(_is_known, [*layers, policy.action_net, policy.value_net]))
        and type(policy.action_dist) in (*_DISTRIBUTIONS, StateDependentNoiseDistribution)
        and not vars(policy.action_dist).keys() & set(dir(Distribution))
        and all(parameter.dtype == th.float32 for parameter in policy.parameters())
    )


def _stack(
    policy: ActorCriticPolicy,
    extractor: nn.Module,
    head: list[nn.Module],
    parameters: Sequence[nn.Parameter],
    log_std: nn.Parameter | None = None,
) -> Stack | None:
    slots: dict[th.Tensor, slice] = {}
    start = 0
    for parameter in parameters:
        slots[parameter] = slice(start, start + parameter.numel())
        start += parameter.numel()

    def extract(observations: PyTorchObs) -> th.Tensor:
        with th.no_grad():
            return BaseModel.extract_features(policy, observations, extractor)  # type: ignore[arg-type]

    def preprocess(observations: PyTorchObs) -> th.Tensor:
        pixels = preprocess_obs(observations, policy.observation_space, normalize_images=policy.normalize_images)
        assert isinstance(pixels, th.Tensor)
        return pixels

    layers, features = head, extract
    if any(parameter in slots for parameter in extractor.parameters()):
        if not isinstance(extractor, NatureCNN) or not _is_plain(extractor, NatureCNN):
            return None
        if not (_is_plain(extractor.cnn, nn.Sequential) and _is_plain(extractor.linear, nn.Sequential)):
            return None
        layers, features = [*extractor.cnn, *extractor.linear, *head], preprocess
    reached = {parameter for layer in layers for parameter in layer.parameters()}
    if log_std is not None:
        reached.add(log_std)
    if not all(map(_is_known, layers)) or not slots.keys() <= reached:
        return None
    return Stack(tuple(layers), slots, features, log_std)


def _is_known(layer: nn.Module) -> bool:
    """Whether a layer is one of those written out, in the form in which it is."""
    if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) != (1, -1):
        return False
    if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        return False
    if getattr(layer, "inplace", False) and not isinstance(layer, nn.ReLU):  # its input, where the slope is taken, is gone
        return False
    return type(layer) in KNOWN and _is_plain(layer, type(layer))


def _extractor_layers(policy: ActorCriticPolicy, which: str) -> list[nn.Module]:
    """Return the layers of one half of the MLP extractor, or what makes the caller give up."""
    extractor = policy.mlp_extractor
    if not _is_plain(extractor, MlpExtractor) or any(name in vars(extractor) for name in ("forward_actor", "forward_critic")):
        return [extractor]
    half = getattr(extractor, which)
    return list(half) if _is_plain(half, nn.Sequential) else [half]


def _is_plain(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether a module is of this very class, and calling it does nothing but its forward method."""
    hooks = (
        *(module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks),
        *(torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks),
        *(torch_module._global_backward_hooks, torch_module._global_backward_pre_hooks),
    )
    return type(module) is cls and "forward" not in vars(module) and not any(hooks)
