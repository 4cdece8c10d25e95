"""
Collecting rollouts with less work per environment step.

During a rollout a policy of Stable-Baselines3 spends its time on modules, distribution objects and their checks, and on
values and log-probabilities that nobody looks at before the rollout ends. For plain policies, only the action is computed
at each step, from the weights themselves, and the rest for the whole rollout at once.
"""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_fvp.rollouts.callback_locals import shared_locals
from sb3_trpo_fvp.rollouts.sampler import Array, Sampler, is_finite, numpy_sampler, torch_sampler


def collect(
    model: OnPolicyAlgorithm,
    env: VecEnv,
    callback: BaseCallback,
    rollout_buffer: RolloutBuffer,
    n_rollout_steps: int,
) -> bool:
    """
    Do what ``OnPolicyAlgorithm.collect_rollouts`` does, in the same order but for values and log-probabilities.

    A callback finds in its ``locals`` what it finds there otherwise, and each step is taken by the parameters of its time.
    The values are those of the critic as it is at the end.

    :param model: whose policy acts, of which :func:`~sb3_trpo_fvp.rollouts.sampler.numpy_sampler` makes a sampler
    :param env: the training environments
    :param callback: called at each step, and at the beginning and the end
    :param rollout_buffer: to fill
    :param n_rollout_steps: steps in each environment
    :return: False if the callback ended the training
    :raises ValueError: if an observation or an action is not finite in single precision; the environments are not stepped
    """
    n_steps = 0
    rollout_buffer.reset()
    if model.use_sde:
        model.policy.reset_noise(env.num_envs)
    callback.on_rollout_start()
    space = model.action_space
    assert space.shape is not None
    shape = (-1, *space.shape)
    squash_output, is_box = model.policy.squash_output, isinstance(space, spaces.Box)
    low, high = (space.low, space.high) if isinstance(space, spaces.Box) else (np.empty(0), np.empty(0))
    # Made after the callback: it may have changed the policy.
    sampler = numpy_sampler(model.policy, rollout_buffer) or torch_sampler(model.policy)
    draw, is_current = sampler.draw, sampler.is_current
    first = 0
    phis: list[tuple[Array, ...]] = []
    truncated: list[tuple[int, int, Array]] = []
    observations, actions = np.empty(0), np.empty(0)
    found = shared_locals(callback)
    found.update(self=model, env=env, callback=callback, rollout_buffer=rollout_buffer, n_rollout_steps=n_rollout_steps)
    known: dict[int, dict[str, Any]] = {}

    @th.no_grad()
    def what_sb3_has_computed() -> dict[str, Any]:
        if n_steps not in known:
            known.clear()
            obs_tensor = th.as_tensor(observations, device=model.device)
            known[n_steps] = {
                "obs_tensor": obs_tensor,
                "values": model.policy.predict_values(obs_tensor),
                "log_probs": sampler.log_probs(phis[-1:], _as_held(actions, env.num_envs)),
            }
        return known[n_steps]

    found.pop("values", None)
    found.compute = what_sb3_has_computed
    while n_steps < n_rollout_steps:
        if model.use_sde and model.sde_sample_freq > 0 and n_steps % model.sde_sample_freq == 0:
            model.policy.reset_noise(env.num_envs)
        if not is_current():
            _fill_log_probs(rollout_buffer, sampler, phis, slice(first, n_steps))
            sampler = numpy_sampler(model.policy, rollout_buffer) or torch_sampler(model.policy)
            draw, is_current = sampler.draw, sampler.is_current
            first, phis = n_steps, []
        observations = model._last_obs  # type: ignore[assignment]
        if not is_finite(observations):
            msg = f"`env` must return finite observations, got NaN or infinity at step {n_steps} of a rollout"
            raise ValueError(msg)
        actions, phi = draw(observations)
        actions = actions.reshape(shape)
        phis.append(phi)
        clipped_actions = actions
        if squash_output:
            clipped_actions = model.policy.unscale_action(actions)
        elif is_box:
            clipped_actions = np.minimum(np.maximum(actions, low), high)  # np.clip takes several times as long
        rollout_buffer.observations[n_steps] = observations
        new_obs, rewards, dones, infos = env.step(clipped_actions)
        model.num_timesteps += env.num_envs
        found.update(
            n_steps=n_steps,
            actions=actions,
            clipped_actions=clipped_actions,
            new_obs=new_obs,
            rewards=rewards,
            dones=dones,
            infos=infos,
        )
        callback.update_locals(found)
        if not callback.on_step():
            return False
        model._update_info_buffer(infos, dones)
        for index, info in enumerate(infos if np.count_nonzero(dones) else ()):
            if dones[index] and info.get("terminal_observation") is not None and info.get("TimeLimit.truncated", False):
                # Some environments write their next observation into the same array.
                truncated.append((n_steps, index, np.array(info["terminal_observation"])))
        rollout_buffer.actions[n_steps] = actions.reshape(env.num_envs, -1)
        rollout_buffer.rewards[n_steps] = rewards
        rollout_buffer.episode_starts[n_steps] = model._last_episode_starts
        model._last_obs = new_obs  # type: ignore[assignment]
        model._last_episode_starts = dones
        n_steps += 1
        rollout_buffer.pos = n_steps
    rollout_buffer.full = True
    _fill_log_probs(rollout_buffer, sampler, phis, slice(first, n_steps))
    _fill_values(model, rollout_buffer, truncated)
    with th.no_grad():
        values = model.policy.predict_values(th.as_tensor(new_obs, device=model.device))
    rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
    found.update(n_steps=n_steps, values=values)
    callback.update_locals(found)
    callback.on_rollout_end()
    return True


@th.no_grad()
def _fill_log_probs(buffer: RolloutBuffer, sampler: Sampler, phis: list[tuple[Array, ...]], steps: slice) -> None:
    """Fill the log-probabilities of some steps in, those of the policy that took them."""
    if phis:
        actions = _as_held(buffer.actions[steps], len(phis) * buffer.n_envs)
        buffer.log_probs[steps] = sampler.log_probs(phis, actions).numpy().reshape(-1, buffer.n_envs)


def _as_held(actions: Array, n: int) -> th.Tensor:
    """Give n actions of any shape the form in which samples of a rollout buffer have them, (n, A)."""
    return th.as_tensor(actions.reshape(n, -1).astype(np.float32, copy=False))


@th.no_grad()
def _fill_values(model: OnPolicyAlgorithm, buffer: RolloutBuffer, truncated: list[tuple[int, int, Array]]) -> None:
    """Fill the values in, and bootstrap the episodes that were cut off by a time limit."""
    policy = model.policy
    observations = th.as_tensor(buffer.observations.reshape(-1, *buffer.obs_shape), device=model.device)
    buffer.values[:] = policy.predict_values(observations).numpy().reshape(buffer.rewards.shape)
    if truncated:
        steps, indices, last = zip(*truncated, strict=True)
        ends = policy.predict_values(th.as_tensor(np.stack(last), device=model.device))
        # One environment may end several episodes, each at a step of its own.
        buffer.rewards[list(steps), list(indices)] += model.gamma * ends.numpy()[:, 0]
