"""Running statistics of batch normalisation, moved by an update as parameters are: within the bound, or not at all."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_trpo_fvp.distributed import ALONE, Communicator
from sb3_trpo_fvp.linalg.vectors import all_finite
from sb3_trpo_fvp.policies import evaluation_mode, num_observations


@dataclass(frozen=True)
class StatisticsStep:
    """
    Where an update would move the running means and variances of a policy's modules.

    :param tensors: running means and variances
    :param old: what they were
    :param new: what they would be
    :param counters: the modules' counts of refreshments
    """

    tensors: Sequence[th.Tensor]
    old: Sequence[th.Tensor]
    new: Sequence[th.Tensor]
    counters: Sequence[th.Tensor]

    @th.no_grad()
    def take(self, fraction: float = 1.0) -> None:
        """
        Move the statistics a part of the way, as the parameters are moved with them.

        :param fraction: the part, in (0, 1], of the way from the old ones
        """
        for tensor, old, new in zip(self.tensors, self.old, self.new, strict=True):
            tensor.copy_(th.lerp(old, new, fraction))

    @th.no_grad()
    def keep(self) -> None:
        """Count the statistics, as they are now, as refreshed."""
        for counter in self.counters:
            counter += 1

    @th.no_grad()
    def undo(self) -> None:
        """Put the old ones back, bit for bit."""
        for tensor, old in zip(self.tensors, self.old, strict=True):
            tensor.copy_(old)


def statistics_step(
    policy: ActorCriticPolicy,
    modules: Iterable[nn.Module],
    observations: PyTorchObs,
    forward: Callable[[PyTorchObs], object],
    comm: Communicator = ALONE,
) -> StatisticsStep | None:
    """
    Find where a rollout moves running statistics: old + m (rollout's − old), m the larger of torch's momentum and 1 / (number
    of refreshments + 1), so that the first refreshment takes the rollout's own statistics over.

    :param policy: whose modules; they are left as they are
    :param modules: those that may move; all but batch normalisation's are passed over
    :param observations: N states
    :param forward: calls the modules on observations
    :param comm: who else has states of this rollout: the statistics are those of all
    :return: the step; None if there is nothing to move, N < 2 or a statistic would not be finite
    """
    normalizers: list[Any] = [module for module in modules if _is_tracking(module)]
    if not normalizers or not comm.all(num_observations(observations) > 1):
        return None
    tensors = [tensor for module in normalizers for tensor in (module.running_mean, module.running_var)]
    counters = [module.num_batches_tracked for module in normalizers]
    old = [tensor.clone() for tensor in tensors]
    counts, momenta = [counter.clone() for counter in counters], [module.momentum for module in normalizers]
    try:
        # At momentum 1 torch leaves the batch's own statistics behind.
        for module in normalizers:
            module.momentum = 1.0
        with evaluation_mode(policy, but_for=normalizers), th.no_grad():
            forward(observations)
        means, variances = ([tensor.double() for tensor in tensors[start::2]] for start in (0, 1))
    finally:
        for module, momentum in zip(normalizers, momenta, strict=True):
            module.momentum = momentum
        for tensor, before in zip([*tensors, *counters], [*old, *counts], strict=True):
            tensor.copy_(before)
    squares = [variance + mean.square() for mean, variance in zip(means, variances, strict=True)]
    of_all = comm.mean([*means, *squares], num_observations(observations))
    new = []
    for index, (count, momentum) in enumerate(zip(counts, momenta, strict=True)):
        mean, square = of_all[index], of_all[index + len(normalizers)]
        weight = max(momentum or 0.0, 1.0 / (count.item() + 1.0))
        for before, target in zip(
            old[2 * index : 2 * index + 2], (mean, (square - mean.square()).clamp(min=0.0)), strict=True
        ):
            new.append(th.lerp(before.double(), target, weight).to(before.dtype))
    return StatisticsStep(tensors, old, new, counters) if all_finite(new) else None


def _is_tracking(module: nn.Module) -> bool:
    """Whether it normalises by running statistics in evaluation mode, and moves them in training mode."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
