"""What an update records, and what it warns of."""

import warnings
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import torch as th

from sb3_trpo_fvp.critic.fit import CriticStats
from sb3_trpo_fvp.distributed import communicator
from sb3_trpo_fvp.distributed.statistics import pooled_explained_variance
from sb3_trpo_fvp.linalg.status import Status
from sb3_trpo_fvp.rollouts.reuse import ReuseStats
from sb3_trpo_fvp.trust_region import StepStatus, TrustRegionStats

if TYPE_CHECKING:
    from sb3_trpo_fvp.trpo.algorithm import TRPO


def record_update(model: "TRPO", step: TrustRegionStats, fit: CriticStats, reuse: ReuseStats) -> None:
    """
    Record what happened, under sb3-contrib's keys and this package's (docs/metrics.md); numbers only.

    :param model: the algorithm, whose logger takes them
    :param step: the actor's
    :param fit: the critic's
    :param reuse: what became of the older rollouts
    """
    record = model.logger.record
    buffer = model.rollout_buffer
    record("train/policy_objective", step.objective)
    record("train/value_loss", fit.loss)
    record("train/kl_divergence_loss", step.constraint)
    # In double precision, where squares of large returns do not overflow.
    values, returns = (array.flatten().astype(np.float64) for array in (buffer.values, buffer.returns))
    record("train/explained_variance", pooled_explained_variance(values, returns, communicator()))
    record("train/is_line_search_success", float(step.status is StepStatus.ACCEPTED))
    log_std = getattr(model.policy, "log_std", None)
    if isinstance(log_std, th.Tensor):
        record("train/std", log_std.detach().exp().mean().item())
    record("train/n_updates", model._n_updates, exclude="tensorboard")

    for field in fields(step):
        if field.name not in ("status", "cg_status", "constraint", "objective"):
            record(f"trust_region/{field.name}", getattr(step, field.name))
    for field in fields(fit):
        if field.name not in ("status", "loss"):
            record(f"critic/{field.name}", getattr(fit, field.name))
    if model.sample_reuse > 1:
        for key, value in vars(reuse).items():
            record(f"sample_reuse/{key}", value)
    for key, status in (("status", step.status), ("cg_status", step.cg_status), ("critic_status", fit.status)):
        record(f"trust_region/{key}", status.as_number())


def warn_of(status: Status, who: str, update: int) -> None:
    """
    Say what the user must look at.

    :param status: how the actor's or the critic's part of an update ended
    :param who: ``"actor"`` or ``"critic"``
    :param update: number of the update
    """
    warnings.warn(
        f"TRPO update {update}: the {who} was not updated, {status.label}: {status.meaning}. What to do: {status.advice}. "
        "Reported once per run; see trust_region/status and trust_region/critic_status in the log.",
        stacklevel=4,
    )


def warn_of_skipped(count: int, updates: int) -> None:
    """
    Say at the end of a run that it had ceased to learn.

    :param count: updates in a row, up to the last one, that were skipped
    :param updates: how many there were
    """
    warnings.warn(
        f"THE RUN HAS STOPPED LEARNING: of {updates} TRPO updates the last {count} were skipped, for actor or critic. See the "
        "warnings before this one, and trust_region/status and trust_region/critic_status in the log.",
        stacklevel=3,
    )
