"""
Collecting rollouts with less work per environment step.

During a rollout a policy of Stable-Baselines3 spends its time on modules, distribution objects and their checks, and on
values and log-probabilities that nobody looks at before the rollout ends. For plain policies, only the action is computed
at each step, from the weights themselves, and the rest for the whole rollout at once.
"""

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_fvp.policies import prepare_actions
from sb3_trpo_fvp.rollouts.sampler import Array, Sampler


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
