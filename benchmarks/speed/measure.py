"""What :mod:`benchmarks.speed` measures, each row and curve in a process of its own, which runs this module."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch as th

from benchmarks.common.processes import run_module
from benchmarks.common.provenance import load_average
from benchmarks.speed.cost_curve import cost
from benchmarks.speed.improvement_curve import improvement
from benchmarks.speed.measurements import Context
from benchmarks.speed.rows import ROWS

CURVES: dict[str, Callable[[Context], dict[str, Any]]] = {"cost": cost, "improvement": improvement}
KEYS = (*(row.key for row in ROWS), *CURVES)


@dataclass(frozen=True)
class Task:
    """
    A row or a curve at a number of threads.

    :param key: which
    :param threads: torch's
    """

    key: str
    threads: int


def tasks(keys: list[str]) -> list[Task]:
    """
    List what there is to measure.

    :param keys: rows and curves
    :return: each at every number of threads that it is measured at; curves at one
    """
    rows = [Task(row.key, threads) for row in ROWS if row.key in keys for threads in row.threads]
    return rows + [Task(key, 1) for key in CURVES if key in keys]


def measure(task: Task, context: Context) -> dict[str, Any]:
    """
    Measure, in this process.

    :param task: what
    :param context: how
    :return: a row's ``reference``, ``ours`` and ``load`` or what a curve returns
    """
    th.set_num_threads(task.threads)
    if task.key in CURVES:
        return CURVES[task.key](context)
    row = next(row for row in ROWS if row.key == task.key)
    load = load_average()
    measured = {side: [float(f"{value:.4g}") for value in values] for side, values in row.measure(context).items()}
    return {**measured, "load": load}


def measure_apart(task: Task, context: Context) -> dict[str, Any]:
    """
    Measure, in a process of its own.

    :param task: what
    :param context: how
    :return: see :func:`measure`
    :raises WorkerError: with what the process had to say
    """
    size = "tiny" if context.tiny else "full"
    arguments = (task.key, task.threads, context.pairs, context.folder, size)
    result: dict[str, Any] = run_module("benchmarks.speed.measure", *arguments, threads=task.threads)
    return result


if __name__ == "__main__":
    key, threads, pairs, folder, tiny = sys.argv[1:]
    print(json.dumps(measure(Task(key, int(threads)), Context(int(pairs), Path(folder), tiny == "tiny"))))
