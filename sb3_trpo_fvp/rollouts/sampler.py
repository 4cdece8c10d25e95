"""A policy written out, from observations to sampled actions, in NumPy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from sb3_trpo_fvp.policies import prepare_actions

Array: TypeAlias = np.ndarray[Any, Any]

Drawn: TypeAlias = tuple[Array, tuple[Array, ...]]
"""Actions of n environments, (n, ...), and the parameters φ of their distribution, (n, ...) or (A,)."""


@dataclass(frozen=True)
class Sampler:
    """
    How a policy acts, as its parameters are at each call.

    The weights are read where they lie, so that a callback that writes into them is obeyed at the next step, and φ is kept
    of each step: log-probabilities are those of the policy that acted, whatever has become of it since.

    :param draw: observations of n environments, (n, ...) → actions and φ; raises a ValueError, and draws nothing, if φ is
        not finite
    :param log_probs: φ of T steps, and their actions as rollout buffers hold them, (T n, A) → log-probabilities, (T n,)
    :param is_current: False once the policy holds other tensors than those that are read: make a new sampler then
    """

    draw: Callable[[Array], Drawn]
    log_probs: Callable[[Sequence[tuple[Array, ...]], th.Tensor], th.Tensor]
    is_current: Callable[[], bool]


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
    layers = [*policy.mlp_extractor.policy_net, policy.action_net]
    return Sampler(_draw(policy, layers), _log_probs(policy), _same_tensors(policy, layers))


def torch_sampler(policy: ActorCriticPolicy) -> Sampler:
    """
    Act by ``policy.forward``, for a policy that has ceased to be a plain one while a rollout was collected.

    :param policy: the policy, in evaluation mode
    :return: the sampler, with the log-probabilities themselves as φ
    """

    @th.no_grad()
    def draw(observations: Array) -> Drawn:
        actions, _, log_probs = policy(th.as_tensor(observations, device=policy.device))
        return actions.cpu().numpy(), (log_probs.cpu().numpy(),)

    def log_probs(phis: Sequence[tuple[Array, ...]], _: th.Tensor) -> th.Tensor:
        return th.from_numpy(np.concatenate([phi[0] for phi in phis]))

    return Sampler(draw, log_probs, lambda: True)


def _draw(policy: ActorCriticPolicy, layers: Sequence[nn.Module]) -> Callable[[Array], Drawn]:
    *hidden, last = map(_step, layers)
    distribution = policy.action_dist

    def latent(observations: Array) -> Array:
        x = observations.reshape(len(observations), -1).astype(np.float32, copy=False)
        for step in hidden:
            x = step(x)
        return x

    def outputs(observations: Array) -> Array:
        head: Array = last(latent(observations))
        if not is_finite(head):
            raise ValueError(_what_is_not_finite(policy))
        return head

    if isinstance(distribution, StateDependentNoiseDistribution):
        squash = np.tanh if distribution.bijector is not None else lambda actions: actions
        variances = _read_std(policy, lambda: distribution.get_std(policy.log_std).square())

        def draw(observations: Array) -> Drawn:
            features = latent(observations)
            mean = last(features)
            noise: Array = distribution.get_noise(th.from_numpy(features)).detach().numpy()
            actions: Array = mean + noise
            if not is_finite(actions):
                raise ValueError(_what_is_not_finite(policy))
            return squash(actions), (mean, np.sqrt(np.square(features) @ variances() + distribution.epsilon))

    elif isinstance(distribution, DiagGaussianDistribution):
        deviations = _read_std(policy, lambda: policy.log_std.exp())

        def draw(observations: Array) -> Drawn:
            mean, std = outputs(observations), deviations()
            noise: Array = th.randn(mean.shape).numpy()
            return mean + std * noise, (mean, std)

    elif isinstance(distribution, CategoricalDistribution):

        def draw(observations: Array) -> Drawn:
            logits = outputs(observations)
            return _sample_categorical(logits), (logits,)

    elif isinstance(distribution, BernoulliDistribution):

        def draw(observations: Array) -> Drawn:
            logits = outputs(observations)
            return th.bernoulli(th.sigmoid(th.from_numpy(logits))).numpy(), (logits,)

    else:
        assert isinstance(distribution, MultiCategoricalDistribution)
        ends = np.cumsum([int(size) for size in distribution.action_dims])[:-1]

        def draw(observations: Array) -> Drawn:
            logits = outputs(observations)
            factors = np.split(logits, ends, axis=1)
            return np.stack([_sample_categorical(factor) for factor in factors], axis=1), (logits,)

    return draw


def _log_probs(policy: ActorCriticPolicy) -> Callable[[Sequence[tuple[Array, ...]], th.Tensor], th.Tensor]:
    distribution: Any = policy.action_dist

    def log_probs(phis: Sequence[tuple[Array, ...]], actions: th.Tensor) -> th.Tensor:
        heads = th.from_numpy(np.concatenate([phi[0] for phi in phis]))
        if isinstance(distribution, (DiagGaussianDistribution, StateDependentNoiseDistribution)):
            stds = np.concatenate([np.broadcast_to(phi[1], phi[0].shape) for phi in phis])
            distribution.distribution = th.distributions.Normal(heads, th.from_numpy(stds))
        else:
            distribution.proba_distribution(heads)
        log_prob: th.Tensor = distribution.log_prob(prepare_actions(policy, actions))
        return log_prob

    return log_probs


def _same_tensors(policy: ActorCriticPolicy, layers: Sequence[nn.Module]) -> Callable[[], bool]:
    """Ask whether the parameters lie where they lay: ``parameter.data = ...`` and a new parameter move them."""
    slots = [(layer._parameters, name) for layer in layers for name, value in layer._parameters.items() if value is not None]
    if getattr(policy, "log_std", None) is not None:
        slots.append((policy._parameters, "log_std"))

    def addresses() -> list[int]:
        return [held[name].data_ptr() for held, name in slots]  # type: ignore[union-attr]

    known = addresses()
    return lambda: addresses() == known


def _read_std(policy: ActorCriticPolicy, compute: Callable[[], th.Tensor]) -> Callable[[], Array]:
    """Compute what follows from ``log_std`` whenever its numbers have changed: comparing them takes less time."""
    log_std = policy.log_std.detach().numpy()
    known, computed = b"", np.empty(0)

    def read() -> Array:
        nonlocal known, computed
        numbers = log_std.tobytes()
        if numbers != known:
            computed = compute().detach().numpy()
            if not np.isfinite(computed).all():
                raise ValueError(_what_is_not_finite(policy))
            known = numbers
        return computed

    return read


_LARGEST = float(np.finfo(np.float32).max)


def is_finite(x: Array) -> bool:
    """
    Look for NaN, infinity, and what becomes infinite in single precision.

    :param x: any array of numbers
    :return: whether there is none
    """
    # The sum of the squares sees every element, sooner; only where it is large each must be looked at.
    return bool(np.vdot(x, x) <= _LARGEST or (np.abs(x) <= _LARGEST).all())


def _what_is_not_finite(policy: ActorCriticPolicy) -> str:
    bad = [name for name, parameter in policy.named_parameters() if not bool(th.isfinite(parameter).all())]
    cause = f"NaN or infinity in {', '.join(bad)}" if bad else "finite parameters, but an overflow behind them"
    return f"the policy must give finite actions, got {cause}"


def _step(layer: nn.Module) -> Callable[[Array], Array]:
    """Write a layer out in NumPy, which takes a fraction of torch's time where arrays are this small."""
    if isinstance(layer, nn.Linear):
        weight, bias = layer.weight.detach().numpy().T, 0.0 if layer.bias is None else layer.bias.detach().numpy()
        return lambda x: x.dot(weight) + bias  # of arrays this small, in half the time of @
    if isinstance(layer, nn.Tanh):
        return np.tanh
    if isinstance(layer, nn.ReLU):
        return lambda x: np.maximum(x, 0.0)
    return lambda x: layer.forward(th.from_numpy(x)).numpy()


def _sample_categorical(logits: Array) -> Array:
    """Draw as ``torch.multinomial`` draws one sample: the smallest of exponential waiting times at the rates p."""
    rates = np.exp(logits - np.maximum.reduce(logits, axis=1, keepdims=True))
    waiting_times = th.empty(rates.shape).exponential_().numpy()
    drawn: Array = (rates / waiting_times).argmax(axis=1)
    return drawn
