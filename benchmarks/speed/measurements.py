"""How each kind of row of the speed table is measured."""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sb3_contrib
import torch as th

import sb3_trpo_fvp
from benchmarks.common.pairs import Side, measure_in_turns
from benchmarks.common.workloads import Contestants, Rollout, Workload, cached_rollout, contestants
from benchmarks.speed.memory import actor_step_peak
from benchmarks.speed.products import contrib_product, flat_double_backprop, layer_products, our_product

Measurement = dict[str, list[float]]
"""``reference`` and ``ours``: seconds or bytes, one of each for each pair."""


@dataclass(frozen=True)
class Context:
    """
    How to measure.

    :param pairs: how many
    :param folder: where rollouts are kept for the processes of one run
    :param tiny: shrink everything, to try the harness out
    """

    pairs: int
    folder: Path
    tiny: bool = False

    def times(self, sides: Mapping[str, Side], shortest: float = 0.0) -> dict[str, list[float]]:
        """
        Time alternatives in turns. With one thread, what other processes take of the machine is left out.

        :param sides: by name
        :param shortest: see :func:`benchmarks.common.pairs.measure_in_turns`
        :return: seconds
        """
        clock = time.process_time if th.get_num_threads() == 1 else time.perf_counter
        return measure_in_turns(sides, self.pairs, shortest=0.0 if self.tiny else shortest, clock=clock)

    def shrink(self, workload: Workload) -> Workload:
        """Return the workload to use."""
        return workload.tiny() if self.tiny else workload

    def rollout(self, workload: Workload) -> Rollout:
        """Return the rollout to use."""
        return cached_rollout(self.shrink(workload), self.folder)

    def contestants(self, workload: Workload, **both: Any) -> Contestants:
        """Return both models, with arguments that are given to both."""
        return contestants(self.shrink(workload), self.rollout(workload), **both)


def product(
    workload: Workload, kind: str = "gauss_newton", n: int | None = None, against: str = "contrib"
) -> Callable[[Context], Measurement]:
    """
    Compare products.

    :param workload: of both
    :param kind: of this package's operator
    :param n: states, all of the rollout if None
    :param against: ``"contrib"``, ``"flat"`` double backpropagation or the ``"layers"``' matrix products alone
    :return: measures
    """

    def measure(context: Context) -> Measurement:
        models = context.contestants(workload)
        samples = models.states(n)
        ours = our_product(models.ours.policy, samples, kind)
        theirs, gradient = contrib_product(models.theirs, samples)
        v = gradient / gradient.norm()
        if against == "contrib":
            reference = Side(lambda: theirs(v))
        elif against == "flat":
            flat = flat_double_backprop(models.theirs.policy, samples)
            reference = Side(lambda: flat(v))
        else:
            reference = Side(layer_products(models.ours.policy, samples))
        sides = {"reference": reference, "ours": Side(lambda: ours(v))}
        return context.times(sides, shortest=0.05)

    return measure


def train(workload: Workload, **both: Any) -> Callable[[Context], Measurement]:
    """
    Compare ``train()``.

    :param workload: of both
    :param both: arguments of both
    :return: measures
    """

    def measure(context: Context) -> Measurement:
        models = context.contestants(workload, **both)
        sides = {
            "reference": Side(models.theirs.train, models.reset(models.theirs)),
            "ours": Side(models.ours.train, models.reset(models.ours)),
        }
        with warnings.catch_warnings():
            # sb3-contrib averages the losses of no critic update.
            warnings.filterwarnings("ignore", "Mean of empty slice|invalid value", RuntimeWarning)
            return context.times(sides)

    return measure


def learn(workload: Workload) -> Callable[[Context], Measurement]:
    """
    Compare ``learn()``: each measurement is a rollout and an update, and both sides go on learning.

    :param workload: of both
    :return: measures
    """

    def measure(context: Context) -> Measurement:
        shrunk = context.shrink(workload)
        theirs, ours = shrunk.build(sb3_contrib.TRPO), shrunk.build(sb3_trpo_fvp.TRPO)
        sides = {
            "reference": Side(lambda: theirs.learn(shrunk.size, reset_num_timesteps=False)),
            "ours": Side(lambda: ours.learn(shrunk.size, reset_num_timesteps=False)),
        }
        return context.times(sides)

    return measure


def peak_memory(
    workload: Workload, both: Mapping[str, Any] = MappingProxyType({}), **ours: Any
) -> Callable[[Context], Measurement]:
    """
    Compare the actor step's peak memory, in bytes.

    :param workload: of both
    :param both: arguments of both packages' TRPO
    :param ours: arguments of this package's alone
    :return: measures, twice at most: memory hardly varies
    """

    def measure(context: Context) -> Measurement:
        shrunk, rollout = context.shrink(workload), context.rollout(workload)
        measured: Measurement = {"reference": [], "ours": []}
        for _ in range(min(context.pairs, 2)):
            measured["reference"].append(actor_step_peak("theirs", shrunk, rollout, th.get_num_threads(), **both))
            measured["ours"].append(actor_step_peak("ours", shrunk, rollout, th.get_num_threads(), **both, **ours))
        return measured

    return measure
