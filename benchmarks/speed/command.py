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
import sys
import tempfile
from inspect import signature
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import benchmarks
from benchmarks import FIGURES, ROOT
from benchmarks.common.pages import update_page
from benchmarks.common.processes import WorkerError
from benchmarks.common.provenance import provenance
from benchmarks.common.study import Study, Verb
from benchmarks.speed.figures import draw_cost, draw_improvement
from benchmarks.speed.measure import CURVES, KEYS, measure_apart, tasks
from benchmarks.speed.measurements import Context
from benchmarks.speed.report import markdown, terminal_table
from benchmarks.speed.rows import ROWS
from sb3_trpo_fvp import TRPO

RESULTS = benchmarks.RESULTS / "speed.json"
PAGES = (ROOT / "README.md", ROOT / "docs" / "speed.md")
CONTRIB_PRODUCTS = 17
"""That sb3-contrib spends on an update at its defaults: a start, 15 steps and sᵀHs."""


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
    environment = provenance(note)
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
            except WorkerError as error:
                failed.append(task)
                progress.console.print(f"{task} failed: {error}", markup=False, highlight=False)
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


def _run(options: argparse.Namespace) -> None:
    run(options.only, 3 if options.quick else options.pairs, options.quick, options.note)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=KEYS, default=list(KEYS), metavar="ROW", help=", ".join(KEYS))
    parser.add_argument("--pairs", type=int, default=25, help="pairs of each row (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="try everything out on tiny rollouts; nothing is kept")
    parser.add_argument("--note", default="", help="what a reader of the results must know of the machine")


def _report(options: argparse.Namespace) -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    publish(results)
    print("\n\n".join(markdown(results).values()))


STUDY = Study(
    "speed",
    run=Verb("measure every row and curve, then report", _run, _run_arguments),
    report=Verb("write tables and figures from the committed results", _report),
    default="run",
)
