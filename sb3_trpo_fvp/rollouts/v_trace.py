"""Advantages and value targets of a rollout whose policy is no longer the present one."""

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]


def v_trace(
    rewards: Array,
    values: Array,
    last_values: Array,
    episode_starts: Array,
    last_dones: Array,
    ratios: Array,
    *,
    gamma: float,
    gae_lambda: float,
) -> tuple[Array, Array]:
    """
    Estimate advantages under the present policy from T steps of E environments that another policy has made (V-trace,
    Espeholt et al., 2018, equation 1 with the λ of its remark 2; used so by Queeney et al., 2022, arXiv 2206.13714):

        δ_t = r_t + γ V(s_{t+1}) − V(s_t)
        Â_t = δ_t + γλ min(1, ρ_{t+1}) Â_{t+1},   target V(s_t) + min(1, ρ_t) Â_t

    with nothing behind the end of an episode. With ρ = 1 these are GAE and its returns (Schulman et al., 2016, equation 16).

    :param rewards: r_t, shape (T, E)
    :param values: V(s_t) of the present critic, shape (T, E)
    :param last_values: V of the observations after the last step, shape (E,)
    :param episode_starts: whether an episode began with s_t, shape (T, E)
    :param last_dones: whether one ended with the last step, shape (E,)
    :param ratios: ρ_t = π(a_t|s_t) / μ(a_t|s_t) of the present policy to the one that acted, shape (T, E)
    :param gamma: discount factor γ, in [0, 1]
    :param gae_lambda: λ, in [0, 1]
    :return: advantages and targets in double precision, each (T, E)
    """
    going_on = 1.0 - np.concatenate([episode_starts[1:], last_dones[None]]).astype(np.float64)
    next_values = np.concatenate([values[1:], last_values[None]]).astype(np.float64)
    deltas = rewards + gamma * going_on * next_values - values
    traces = np.minimum(ratios.astype(np.float64), 1.0)
    decay = gamma * gae_lambda * going_on[:-1] * traces[1:]
    advantages = deltas
    for step in range(len(deltas) - 2, -1, -1):
        advantages[step] += decay[step] * advantages[step + 1]
    return advantages, values + traces * advantages
