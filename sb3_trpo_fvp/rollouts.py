"""
Collecting rollouts with less work per environment step.

During a rollout a policy of Stable-Baselines3 spends its time on modules, distribution objects and their checks, and on
values and log-probabilities that nobody looks at before the rollout ends. For plain policies, only the action is computed
at each step, from the weights themselves, and the rest for the whole rollout at once.
"""

from collections.abc import Callable

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
)
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from sb3_trpo_fvp.networks import prepare_actions
from sb3_trpo_fvp.stacks import is_plain_rollout_policy

Sampler = Callable[[np.ndarray], np.ndarray]
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
    layers = [*policy.mlp_extractor.policy_net, policy.action_net]
    distribution = policy.action_dist

    def outputs(observations: np.ndarray) -> th.Tensor:
        x = th.as_tensor(observations, dtype=th.float32).flatten(1)
        for layer in layers:
            x = th.addmm(layer.bias, x, layer.weight.t()) if isinstance(layer, nn.Linear) else layer.forward(x)
        return x

    if isinstance(distribution, DiagGaussianDistribution):

        def sample(observations: np.ndarray) -> np.ndarray:
            mean = outputs(observations)
            return th.addcmul(mean, th.randn_like(mean), policy.log_std.exp()).numpy()

    elif isinstance(distribution, CategoricalDistribution):

        def sample(observations: np.ndarray) -> np.ndarray:
            return th.multinomial(th.softmax(outputs(observations), -1), 1, True).numpy()[:, 0]

    elif isinstance(distribution, BernoulliDistribution):

        def sample(observations: np.ndarray) -> np.ndarray:
            return th.bernoulli(th.sigmoid(outputs(observations))).numpy()

    else:
        assert isinstance(distribution, MultiCategoricalDistribution)
        sizes = [int(size) for size in distribution.action_dims]

        def sample(observations: np.ndarray) -> np.ndarray:
            pieces = th.split(outputs(observations), sizes, dim=1)
            return np.stack([th.multinomial(th.softmax(piece, -1), 1, True).numpy()[:, 0] for piece in pieces], axis=1)

    return sample


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
    callback.on_rollout_start()
    space = model.action_space
    assert space.shape is not None
    truncated: list[tuple[int, int, np.ndarray]] = []
    while n_steps < n_rollout_steps:
        observations = model._last_obs
        assert isinstance(observations, np.ndarray)
        if not np.isfinite(observations).all():
            msg = f"`env` must return finite observations, got NaN or infinity at step {n_steps} of a rollout"
            raise ValueError(msg)
        with th.inference_mode():
            actions = sample(observations).reshape((-1, *space.shape))
        clipped_actions = np.clip(actions, space.low, space.high) if isinstance(space, spaces.Box) else actions
        new_obs, rewards, dones, infos = env.step(clipped_actions)
        model.num_timesteps += env.num_envs
        callback.update_locals({"self": model, **locals()})
        if not callback.on_step():
            return False
        model._update_info_buffer(infos, dones)
        for index in np.flatnonzero(dones):
            info = infos[index]
            if info.get("terminal_observation") is not None and info.get("TimeLimit.truncated", False):
                truncated.append((n_steps, int(index), info["terminal_observation"]))
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
def _evaluate(model: OnPolicyAlgorithm, buffer: RolloutBuffer, truncated: list[tuple[int, int, np.ndarray]]) -> None:
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
