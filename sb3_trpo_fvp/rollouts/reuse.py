"""
Several rollouts in one update: the newest, and older ones weighed by how likely the present policy is to act as they do.

Queeney, Paschalidis and Cassandras, "Generalized Proximal Policy Optimization with Sample Reuse" (2021, arXiv 2111.00072) and
"Generalized Policy Improvement Algorithms with Theoretically Supported Sample Reuse" (2022, arXiv 2206.13714).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, RolloutBufferSamples
from stable_baselines3.common.utils import obs_as_tensor

from sb3_trpo_fvp.distributed import ALONE, Communicator
from sb3_trpo_fvp.linalg.arguments import require_number
from sb3_trpo_fvp.policies import evaluation_mode, index_observations, num_observations, prepare_actions
from sb3_trpo_fvp.rollouts.history import Rollout
from sb3_trpo_fvp.rollouts.v_trace import v_trace

_STATES_AT_A_TIME = 2048
"""That the policy looks at for their probabilities and values: of images, more would take much memory."""


@dataclass(frozen=True)
class Batch:
    """
    What an update is made from: N states, of one rollout or of several, the newest first.

    :param observations: tensor (N, ...) or dict of tensors
    :param actions: taken there, (N, A) as rollout buffers hold them
    :param advantages: of those actions under the present policy, (N,)
    :param returns: what the critic is fitted to, (N,)
    :param weights: ρ̄, by which each state counts in the surrogate, (N,); None where all count alike
    """

    observations: PyTorchObs
    actions: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    weights: th.Tensor | None = None

    def __getitem__(self, rows: slice) -> "Batch":
        return Batch(
            index_observations(self.observations, rows),
            self.actions[rows],
            self.advantages[rows],
            self.returns[rows],
            None if self.weights is None else self.weights[rows],
        )


@dataclass(frozen=True)
class ReuseStats:
    """
    How far the older rollouts are from the present policy.

    :param rollouts: how many an update was made from, the newest included
    :param left_out: how many older ones were too far away
    :param effective_sample_size: (Σρ)² / Σρ² over all states used, as a part of their number, in (0, 1]
    :param ratio_mean: mean of ρ over the older states used; near 1 where ρ are right
    :param ratio_max: the largest
    :param clipped_fraction: part of the older states used whose ρ was clipped
    """

    rollouts: int = 1
    left_out: int = 0
    effective_sample_size: float = 1.0
    ratio_mean: float = 1.0
    ratio_max: float = 1.0
    clipped_fraction: float = 0.0


@dataclass(frozen=True)
class SampleReuse:
    """
    How older rollouts enter an update.

    With ρ = π_k(a|s) / π_{k−i}(a|s), computed anew for every update, the surrogate is the mean over all states of
    min(ρ, c) Â π_θ(a|s) / π_k(a|s), and the KL that bounds the step the mean over the same states of KL(π_k ‖ π_θ).

    :param max_ratio: c, at which ρ is clipped, in [1, ∞)
    :param min_effective_sample_size: a rollout with a smaller (Σρ)² / NΣρ² is left out, in [0, 1]
    :raises ValueError: if an argument is outside its interval
    """

    max_ratio: float = 2.0
    min_effective_sample_size: float = 0.3

    def __post_init__(self) -> None:
        require_number("max_ratio", self.max_ratio, "[1, ∞)")
        require_number("min_effective_sample_size", self.min_effective_sample_size, "[0, 1]")

    def pool(
        self,
        newest: RolloutBufferSamples,
        older: Sequence[Rollout],
        policy: ActorCriticPolicy,
        *,
        gamma: float,
        gae_lambda: float,
        comm: Communicator = ALONE,
    ) -> tuple[Batch, ReuseStats]:
        """
        Put the newest rollout and the older ones together.

        The newest keeps the advantages and returns of its buffer, the older ones get theirs from the present critic
        (:func:`~sb3_trpo_fvp.rollouts.v_trace.v_trace`).

        :param newest: the whole newest rollout, of n states
        :param older: the older ones, the oldest first
        :param policy: the present policy
        :param gamma: discount factor
        :param gae_lambda: λ of the advantages
        :param comm: the ranks; each has rollouts of its own, as many as the others
        :return: the batch, and how far the older rollouts are
        """
        batch = Batch(newest.observations, newest.actions, newest.advantages, newest.returns)
        if not older:
            return batch, ReuseStats()
        with evaluation_mode(policy), th.no_grad():
            weighed = [_Weighed.of(rollout, policy, gamma, gae_lambda) for rollout in reversed(older)]
        sums = comm.gather([each.sums(self.max_ratio) for each in weighed])
        pooled = [_Sums.total([rank[index] for rank in sums]) for index in range(len(weighed))]
        used = [index for index, each in enumerate(pooled) if each.effective >= self.min_effective_sample_size]
        stats = ReuseStats(1 + len(used), len(older) - len(used))
        if not used:
            return batch, stats
        older_sums = _Sums.total([pooled[index] for index in used])
        newest_count = sum(comm.gather(len(newest.actions)))
        everything = _Sums.total([older_sums, _Sums(newest_count, newest_count, newest_count, 1.0, 0)])
        stats = replace(
            stats,
            effective_sample_size=everything.effective,
            ratio_mean=older_sums.ratios / older_sums.count,
            ratio_max=older_sums.largest,
            clipped_fraction=older_sums.clipped / older_sums.count,
        )
        return self._concatenate(batch, [weighed[index] for index in used]), stats

    def _concatenate(self, batch: Batch, older: "Sequence[_Weighed]") -> Batch:
        def rows(first: th.Tensor, arrays: list[Any]) -> th.Tensor:
            return th.cat([first, *(th.as_tensor(array, dtype=first.dtype, device=first.device) for array in arrays)])

        observations: Any = batch.observations
        if isinstance(observations, dict):
            observations = {
                key: rows(value, [each.rollout.observations[key] for each in older]) for key, value in observations.items()
            }
        else:
            observations = rows(observations, [each.rollout.observations for each in older])
        ones = th.ones_like(batch.advantages)
        return Batch(
            observations,
            rows(batch.actions, [each.rollout.actions for each in older]),
            rows(batch.advantages, [each.advantages for each in older]),
            rows(batch.returns, [each.targets for each in older]),
            rows(ones, [np.minimum(each.ratios, self.max_ratio) for each in older]),
        )


@dataclass(frozen=True)
class _Sums:
    """What decides about a rollout, which adds up over rollouts and ranks."""

    count: float
    ratios: float
    squares: float
    largest: float
    clipped: float

    @property
    def effective(self) -> float:
        """(Σρ)² / NΣρ²; NaN, and so below any bound, if a ρ is not finite."""
        squares = self.count * self.squares
        return self.ratios**2 / squares if 0.0 < squares < math.inf else math.nan

    @classmethod
    def total(cls, parts: "Sequence[_Sums]") -> "_Sums":
        return cls(
            sum(part.count for part in parts),
            sum(part.ratios for part in parts),
            sum(part.squares for part in parts),
            max(part.largest for part in parts),
            sum(part.clipped for part in parts),
        )


@dataclass(frozen=True)
class _Weighed:
    """An older rollout as the present policy and critic see it; arrays (N,)."""

    rollout: Rollout
    ratios: np.ndarray
    advantages: np.ndarray
    targets: np.ndarray

    @classmethod
    def of(cls, rollout: Rollout, policy: ActorCriticPolicy, gamma: float, gae_lambda: float) -> "_Weighed":
        log_probs, values = _evaluate(policy, rollout)
        with np.errstate(over="ignore", invalid="ignore"):
            ratios = np.exp(log_probs - rollout.log_probs)
            last_values = policy.predict_values(obs_as_tensor(rollout.last_observations, policy.device))
            by_step = v_trace(
                rollout.by_step(rollout.rewards),
                rollout.by_step(values),
                last_values.double().cpu().numpy().flatten(),
                rollout.by_step(rollout.episode_starts),
                rollout.last_dones,
                rollout.by_step(ratios),
                gamma=gamma,
                gae_lambda=gae_lambda,
            )
        advantages, targets = (array.T.reshape(-1) for array in by_step)
        return cls(rollout, ratios, advantages, targets)

    def sums(self, max_ratio: float) -> _Sums:
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(self.advantages).all() and np.isfinite(self.targets).all()
            squares = float(np.square(self.ratios).sum()) if finite else math.nan
            clipped = float((self.ratios > max_ratio).sum())
            return _Sums(len(self.ratios), float(self.ratios.sum()), squares, float(self.ratios.max()), clipped)


def _evaluate(policy: ActorCriticPolicy, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of a rollout's actions, and values of its states, as they are now; double precision, (N,) each."""
    observations = obs_as_tensor(rollout.observations, policy.device)
    actions = th.as_tensor(rollout.actions.astype(np.float32, copy=False), device=policy.device)
    log_probs, values = [], []
    for start in range(0, num_observations(observations), _STATES_AT_A_TIME):
        rows = slice(start, start + _STATES_AT_A_TIME)
        states = index_observations(observations, rows)
        log_probs.append(policy.get_distribution(states).log_prob(prepare_actions(policy, actions[rows])))
        values.append(policy.predict_values(states).flatten())
    return th.cat(log_probs).double().cpu().numpy(), th.cat(values).double().cpu().numpy()
