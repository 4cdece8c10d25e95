"""
Collecting rollouts with less work per environment step.

During a rollout a policy of Stable-Baselines3 spends its time on modules, distribution objects and their checks, and on
values and log-probabilities that nobody looks at before the rollout ends. For plain policies, only the action is computed
at each step, from the weights themselves, and the rest for the whole rollout at once.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from sb3_trpo_fvp.linearization.recognition import is_plain_rollout_policy
from sb3_trpo_fvp.policies import prepare_actions

Array: TypeAlias = np.ndarray[Any, Any]
Sampler: TypeAlias = Callable[[Array], Array]
"""Observations of n environments, (n, ...) → actions, (n, A) or (n,) for Discrete."""


def plain_sampler(policy: ActorCriticPolicy, buffer: RolloutBuffer) -> Sampler | None:
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


def collect(
    model: OnPolicyAlgorithm,
    sample: Sampler,
    env: VecEnv,
    callback: BaseCallback,
    rollout_buffer: RolloutBuffer,
    n_rollout_steps: int,
) -> bool:
    """
    Do what ``OnPolicyAlgorithm.collect_rollouts`` does, in the same order but for values and log-probabilities.

    A callback finds in its ``locals`` what it finds there otherwise, but for ``values``, ``log_probs`` and ``obs_tensor``.

    :param model: whose policy acts
    :param sample: its sampler
    :param env: the training environments
    :param callback: called at each step, and at the beginning and the end
    :param rollout_buffer: to fill
    :param n_rollout_steps: steps in each environment
    :return: False if the callback ended the training
    """
    n_steps = 0
    rollout_buffer.reset()
    if model.use_sde:
        model.policy.reset_noise(env.num_envs)
    callback.on_rollout_start()
    space = model.action_space
    assert space.shape is not None
    truncated: list[tuple[int, int, Array]] = []
    while n_steps < n_rollout_steps:
        if model.use_sde and model.sde_sample_freq > 0 and n_steps % model.sde_sample_freq == 0:
            model.policy.reset_noise(env.num_envs)
        observations = model._last_obs
        assert isinstance(observations, np.ndarray)
        if not np.isfinite(observations).all():
            msg = f"`env` must return finite observations, got NaN or infinity at step {n_steps} of a rollout"
            raise ValueError(msg)
        actions = sample(observations).reshape((-1, *space.shape))
        clipped_actions = actions
        if model.policy.squash_output:
            clipped_actions = model.policy.unscale_action(actions)
        elif isinstance(space, spaces.Box):
            clipped_actions = np.clip(actions, space.low, space.high)
        new_obs, rewards, dones, infos = env.step(clipped_actions)
        model.num_timesteps += env.num_envs
        callback.update_locals({"self": model, **locals()})
        if not callback.on_step():
            return False
        model._update_info_buffer(infos, dones)
        for index, info in enumerate(infos if dones.any() else ()):
            if dones[index] and info.get("terminal_observation") is not None and info.get("TimeLimit.truncated", False):
                truncated.append((n_steps, index, info["terminal_observation"]))
        rollout_buffer.observations[n_steps] = observations
        rollout_buffer.actions[n_steps] = actions.reshape(env.num_envs, -1)
        rollout_buffer.rewards[n_steps] = rewards
        rollout_buffer.episode_starts[n_steps] = model._last_episode_starts
        model._last_obs = new_obs  # type: ignore[assignment]
        model._last_episode_starts = dones
        n_steps += 1
    rollout_buffer.pos, rollout_buffer.full = n_steps, True
    _evaluate(model, rollout_buffer, truncated)
    with th.no_grad():
        values = model.policy.predict_values(th.as_tensor(new_obs, device=model.device))
    rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
    callback.update_locals({"self": model, **locals()})
    callback.on_rollout_end()
    return True


@th.no_grad()
def _evaluate(model: OnPolicyAlgorithm, buffer: RolloutBuffer, truncated: list[tuple[int, int, Array]]) -> None:
    """Fill values and log-probabilities in, and bootstrap the episodes that were cut off by a time limit."""
    policy, shape = model.policy, buffer.rewards.shape
    observations = th.as_tensor(buffer.observations.reshape(-1, *buffer.obs_shape), device=model.device)
    actions = th.as_tensor(buffer.actions.reshape(-1, buffer.action_dim).astype(np.float32, copy=False), device=model.device)
    log_probs = policy.get_distribution(observations).log_prob(prepare_actions(policy, actions))
    buffer.log_probs[:] = log_probs.numpy().reshape(shape)
    buffer.values[:] = policy.predict_values(observations).numpy().reshape(shape)
    if truncated:
        steps, indices, last = zip(*truncated, strict=True)
        ends = policy.predict_values(th.as_tensor(np.stack(last), device=model.device))
        # One environment may end several episodes, each at a step of its own.
        buffer.rewards[list(steps), list(indices)] += model.gamma * ends.numpy()[:, 0]
