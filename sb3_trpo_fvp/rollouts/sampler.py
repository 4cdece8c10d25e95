"""A policy written out, from observations to sampled actions, in NumPy."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from torch import nn

from sb3_trpo_fvp.linearization.recognition import is_plain_rollout_policy

Array: TypeAlias = np.ndarray[Any, Any]


Sampler: TypeAlias = Callable[[Array], Array]
"""Observations of n environments, (n, ...) → actions, (n, A) or (n,) for Discrete."""


def numpy_sampler(policy: ActorCriticPolicy, buffer: RolloutBuffer) -> Sampler | None:
    """
    Write a policy's way from observations to sampled actions out.

    It draws the same random numbers in the same order as ``policy.forward``: with the same seed the actions are the same,
    to the rounding of single precision.

    :param policy: the policy, in evaluation mode
    :param buffer: what the rollout goes to
    :return: the sampler, None if policy or buffer are not plain ones
    """
    space = policy.observation_space
    if not isinstance(space, spaces.Box) or is_image_space(space) or type(buffer) is not RolloutBuffer:
        return None
    if policy.device.type != "cpu" or not is_plain_rollout_policy(policy):
        return None
    steps = [_step(layer) for layer in policy.mlp_extractor.policy_net]
    last = _step(policy.action_net)
    distribution = policy.action_dist

    def latent(observations: Array) -> Array:
        x = observations.reshape(len(observations), -1).astype(np.float32, copy=False)
        for step in steps:
            x = step(x)
        return x

    def outputs(observations: Array) -> Array:
        return last(latent(observations))

    if isinstance(distribution, StateDependentNoiseDistribution):
        squash = np.tanh if distribution.bijector is not None else lambda actions: actions

        def sample(observations: Array) -> Array:
            features = latent(observations)
            noise: Array = distribution.get_noise(th.from_numpy(features)).detach().numpy()
            return squash(last(features) + noise)  # type: ignore[no-any-return]

    elif isinstance(distribution, DiagGaussianDistribution):
        std = policy.log_std.detach().exp().numpy()

        def sample(observations: Array) -> Array:
            mean = outputs(observations)
            noise: Array = th.randn(mean.shape).numpy()
            actions: Array = mean + std * noise
            return actions

    elif isinstance(distribution, CategoricalDistribution):

        def sample(observations: Array) -> Array:
            return _sample_categorical(outputs(observations))

    elif isinstance(distribution, BernoulliDistribution):

        def sample(observations: Array) -> Array:
            return th.bernoulli(th.sigmoid(th.from_numpy(outputs(observations)))).numpy()

    else:
        assert isinstance(distribution, MultiCategoricalDistribution)
        ends = np.cumsum([int(size) for size in distribution.action_dims])[:-1]

        def sample(observations: Array) -> Array:
            return np.stack([_sample_categorical(logits) for logits in np.split(outputs(observations), ends, axis=1)], axis=1)

    return sample


def _step(layer: nn.Module) -> Callable[[Array], Array]:
    """Write a layer out in NumPy, which takes a fraction of torch's time where arrays are this small."""
    if isinstance(layer, nn.Linear):
        weight, bias = layer.weight.detach().numpy().T, 0.0 if layer.bias is None else layer.bias.detach().numpy()
        return lambda x: x @ weight + bias
    if isinstance(layer, nn.Tanh):
        return np.tanh
    if isinstance(layer, nn.ReLU):
        return lambda x: np.maximum(x, 0.0)
    return lambda x: layer.forward(th.from_numpy(x)).numpy()


def _sample_categorical(logits: Array) -> Array:
    """Draw as ``torch.multinomial`` draws one sample: the smallest of exponential waiting times at the rates p."""
    rates = np.exp(logits - logits.max(axis=1, keepdims=True))
    waiting_times = th.empty(rates.shape).exponential_().numpy()
    drawn: Array = (rates / waiting_times).argmax(axis=1)
    return drawn
