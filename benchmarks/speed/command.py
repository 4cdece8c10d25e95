"""
Speed against sb3-contrib: ``python -m benchmarks.speed``.

Measuring policy. Ratios are the only results: the reference's cost over ours (≥) or ours over the reference's (≤), the
median of at least 20 pairs after warm-up, with quartiles. The two sides of a pair run right after each other in one
process, every other pair in the opposite order, so that a busy machine slows both. Each row has a process of its own for one
thread and for two; with one, the clock is the process's own CPU time, which leaves out what other processes take, with two
it is the wall's. Rollouts come from real environments, and both models hold the same weights and the same rollout, put back
outside of the clock before every repetition; only ``learn()`` goes on learning, a rollout and an update at a time. Both
sides run at sb3-contrib's defaults, and what only this package has at its own. Memory is the kernel's high-water mark in a
process of each side's own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch as th
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.common.provenance import describe_environment, load_average
from benchmarks.speed.cost_curve import cost
from benchmarks.speed.figures import draw_cost, draw_improvement
from benchmarks.speed.improvement_curve import improvement
from benchmarks.speed.measurements import Context
from benchmarks.speed.report import markdown, terminal_table, update_page
from benchmarks.speed.rows import ROWS
from sb3_trpo_fvp import TRPO

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "speed.json"
FIGURES = ROOT / "docs" / "figures"
PAGES = (ROOT / "README.md", ROOT / "docs" / "speed.md")
CURVES: dict[str, Callable[[Context], dict[str, Any]]] = {"cost": cost, "improvement": improvement}
KEYS = (*(row.key for row in ROWS), *CURVES)
CONTRIB_PRODUCTS = 17
"""That sb3-contrib spends on an update at its defaults: a start, 15 steps and sᵀHs."""


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
    :raises subprocess.CalledProcessError: with what the process had to say
    """
    command = [sys.executable, "-m", "benchmarks.speed", "--worker", task.key, "--threads", str(task.threads)]
    command += ["--pairs", str(context.pairs), "--folder", str(context.folder), *(["--quick"] if context.tiny else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(task.threads), "MKL_NUM_THREADS": str(task.threads)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def load_results(environment: dict[str, Any], pairs: int) -> dict[str, Any]:
    """
    Start from the committed results, if they were measured on this machine with these versions.

    :param environment: the present one
    :param pairs: to be measured now
    :return: results to add to
    """
    empty: dict[str, Any] = {"environment": environment, "pairs": pairs, "rows": {}, "curves": {}}
    if not RESULTS.exists():
        return empty
    old: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    if any(old["environment"][key] != environment[key] for key in ("cpu", "versions")):
        Console(stderr=True).print(f"{RESULTS.name} is from another machine or other versions: starting anew.")
        return empty
    return {**old, "environment": environment, "pairs": min(pairs, old["pairs"])}


def draw(results: dict[str, Any], folder: Path) -> None:
    """
    Draw the figures for which there are results.

    :param results: as committed
    :param folder: where to
    """
    curves = results["curves"]
    if "cost" in curves:
        draw_cost(curves["cost"], 1, folder / "product_cost.png")
    if "improvement" in curves:
        default = signature(TRPO).parameters["cg_residual_tol"].default
        draw_improvement(curves["improvement"], default, CONTRIB_PRODUCTS, folder / "predicted_improvement.png")


def run(keys: list[str], pairs: int, tiny: bool, note: str) -> None:
    """
    Measure, write results and figures, and print the table.

    :param keys: rows and curves
    :param pairs: of each row
    :param tiny: only try the harness out: nothing is kept
    :param note: to be kept with the environment
    """
    console = Console()
    environment = describe_environment(note)
    results = load_results(environment, pairs)
    if tiny:
        results = {**results, "rows": {}, "curves": {}}
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=console) as progress:
        context = Context(pairs, Path(folder), tiny)
        todo, failed = tasks(keys), []
        bar = progress.add_task("", total=len(todo))
        for task in todo:
            progress.update(bar, description=f"{task.key}, {task.threads} thread{'s' * (task.threads > 1)}")
            try:
                measured = measure_apart(task, context)
            except subprocess.CalledProcessError as error:
                failed.append(task)
                progress.console.print(f"{task} failed:\n{error.stderr}", markup=False, highlight=False)
                continue
            if task.key in CURVES:
                results["curves"][task.key] = measured
            else:
                results["rows"].setdefault(task.key, {})[str(task.threads)] = measured
            if not tiny:  # Kept after each one: a long run that is interrupted has not been for nothing.
                RESULTS.parent.mkdir(exist_ok=True)
                RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            progress.advance(bar)
        if tiny:
            draw(results, Path(folder))
    console.print(terminal_table(results, tuple(row for row in ROWS if row.key in keys)))
    if not tiny:
        publish(results)
    if failed:
        sys.exit(f"not measured: {', '.join(map(str, failed))}")


def publish(results: dict[str, Any]) -> None:
    """
    Draw the figures and bring the pages up to date.

    :param results: as committed
    """
    draw(results, FIGURES)
    for page in PAGES:
        if page.exists():
            update_page(page, markdown(results))


def main(arguments: list[str] | None = None) -> None:
    """
    Run from the command line.

    :param arguments: those of the process if None
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description="Measure speed against sb3-contrib.")
    parser.add_argument("--only", nargs="+", choices=KEYS, default=list(KEYS), metavar="ROW", help=", ".join(KEYS))
    parser.add_argument("--pairs", type=int, default=25, help="pairs of each row")
    parser.add_argument("--quick", action="store_true", help="try everything out on tiny rollouts; nothing is kept")
    parser.add_argument("--note", default="", help="what a reader of the results must know of the machine")
    parser.add_argument("--table", action="store_true", help="measure nothing: print and publish the committed results")
    parser.add_argument("--worker", choices=KEYS, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        print(
            json.dumps(measure(Task(options.worker, options.threads), Context(options.pairs, options.folder, options.quick)))
        )
    elif options.table:
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
        publish(results)
        print("\n\n".join(markdown(results).values()))
    else:
        run(options.only, 3 if options.quick else options.pairs, options.quick, options.note)


if __name__ == "__main__":
    main()
