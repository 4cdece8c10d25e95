"""The critic fitted by minibatches with the policy's own optimizer."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th

from sb3_trpo_fvp.critic.fit import CriticFit, CriticStats, CriticStatus
from sb3_trpo_fvp.critic.value_function import ValueFunction
from sb3_trpo_fvp.linalg.vectors import flatten, unflatten

MOST_RANKS = 4


CHEAP_MINIBATCH = 2**22
"""Parameters times states up to which a rank computes a minibatch sooner than it sends a message about it."""


class AdamCritic(CriticFit):
    """
    Epochs of minibatches with the policy's own optimizer, whatever it is, as sb3-contrib does.

    Several ranks either average the gradients of every minibatch, or, where a minibatch is computed sooner than sent (few
    ranks, a small network, features that stand still), bring all states together once and each do the whole fit, bit for
    bit the same.

    :param n_epochs: passes over the rollout
    :param batch_size: states in a minibatch
    """

    def __init__(self, n_epochs: int, batch_size: int):
        self.n_epochs = n_epochs
        self.batch_size = batch_size

    def fit(self, values: ValueFunction, returns: th.Tensor, state: Mapping[str, float]) -> CriticStats:
        """Do the epochs, see :meth:`CriticFit.fit`."""
        optimizer = values.policy.optimizer
        # Gradients lie on the critic's parameters alone: an optimizer passes over those that have none.
        optimizer.zero_grad(set_to_none=True)
        gradient = flatten([th.zeros_like(parameter) for parameter in values.parameters])
        values, returns, batch_size, permute = self._divide(values, returns, len(gradient))
        for parameter, piece in zip(values.parameters, unflatten(gradient, values.parameters), strict=True):
            parameter.grad = piece
        losses = []
        num_minibatches = values.comm.largest(-(-values.size // batch_size))
        with _fused(optimizer):
            for _ in range(self.n_epochs):
                permutation = th.as_tensor(permute(values.size), device=returns.device)
                for predicted, targets in values.minibatches(returns, permutation, batch_size, num_minibatches):
                    error = predicted.outputs[0] - targets
                    # The gradient of the mean of the squared errors.
                    predicted.vjp([error * (2.0 / max(len(error), 1))], out=gradient.zero_())
                    loss, mean = values.comm.mean([error.square().mean(), gradient], len(error))
                    if mean is not gradient:  # one process averages with nobody
                        gradient.copy_(mean)
                    optimizer.step()
                    losses.append(loss)
        optimizer.zero_grad(set_to_none=True)
        return CriticStats(CriticStatus.FITTED, float(th.stack(losses).mean()) if losses else math.nan)

    def _divide(
        self, values: ValueFunction, returns: th.Tensor, num_parameters: int
    ) -> tuple[ValueFunction, th.Tensor, int, Callable[[int], np.ndarray[Any, Any]]]:
        """Decide, alike on every rank, who fits on which states: critic, targets, batch size and what draws their order."""
        comm = values.comm
        if 1 < comm.world_size <= MOST_RANKS and self.n_epochs > 0:
            together = values.is_alike_everywhere and self.batch_size * num_parameters <= CHEAP_MINIBATCH
            ranks = comm.gather((together, self.batch_size))
            if all(willing for willing, _ in ranks):
                order = np.random.default_rng(comm.broadcast(np.random.randint(2**31)))
                batch_size = sum(size for _, size in ranks)
                return values.of_all_ranks(), comm.concatenate(returns), batch_size, order.permutation
        return values, returns, self.batch_size, np.random.permutation


@contextmanager
def _fused(optimizer: th.optim.Optimizer) -> Iterator[None]:
    """Let Adam update all parameters in one kernel for the while, where nobody has chosen an implementation."""
    groups = [
        group
        for group in optimizer.param_groups
        if type(optimizer) in (th.optim.Adam, th.optim.AdamW)
        and not any(group.get(name) for name in ("fused", "foreach", "capturable", "differentiable"))
        and all(parameter.device.type == "cpu" and parameter.is_floating_point() for parameter in group["params"])
    ]
    chosen = [(group["fused"], group["foreach"]) for group in groups]
    for group in groups:
        group["fused"], group["foreach"] = True, False
    try:
        yield
    finally:
        for group, (fused, foreach) in zip(groups, chosen, strict=True):
            group["fused"], group["foreach"] = fused, foreach
