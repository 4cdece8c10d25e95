"""
The learning benchmark: ``python -m benchmarks.learning``.

Runs are those of the sweep file that users have, done by ``sb3-trpo-fvp sweep benchmark`` through RL-Zoo's own training.
``collect benchmark FOLDER`` takes what is finished out of the sweep's folder, the evaluations and what each run cost, into
``benchmarks/results/learning``, one small file a run, so that any machine can go on with the others; likewise for the sweeps
``reference`` and ``defaults``, the import swap, of which it takes the training curves, as of ``reuse``, the runs that the
defaults were chosen from. ``report``, the default, draws tables
and figures from those files and rewrites the pages.

The final return of a run is the mean over the episodes of its last three evaluations. Normalised returns have 0 at the
return of uniformly random actions and 1 at the reference of ``reference_scores.json``. Times are CPU seconds of the run's one
thread, evaluations left out: what else the machine does is not in them, and ratios are of runs of one machine.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import FIGURES, ROOT
from benchmarks.common.pages import update_page
from benchmarks.common.references import measure_random, read_references
from benchmarks.common.study import Study, Verb
from benchmarks.learning import reference, report, reuse, runs, swap
from benchmarks.learning.figures import draw_all, draw_swap
from sb3_trpo_fvp.cli import main as command

PAGES = (ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "sample-reuse.md", ROOT / "README.md")
SWEEPS: Mapping[str, Callable[[Path], int]] = {
    "benchmark": runs.collect,
    "defaults": swap.collect,
    "reuse": reuse.collect,
    "single": lambda folder: swap.collect(folder, reuse.SINGLE),
    "reference": lambda folder: runs.collect(folder, runs.REFERENCE),
}
"""What collects the runs of each sweep."""


def parts() -> dict[str, str]:
    """
    Write everything that the pages show, from the committed results.

    :return: text by the name of its markers
    """
    found = report.parts(runs.read(), read_references()) | {"learning-defaults": swap.table(swap.read())}
    found |= {"learning-reuse": reuse.table(swap.read(reuse.RESULTS), swap.read())}
    found |= {"learning-single": reuse.single_table(swap.read(reuse.SINGLE))}
    evaluated = runs.read(runs.REFERENCE)
    return found | ({"learning-reference": reference.table(evaluated)} if evaluated else {})


def _run(options: argparse.Namespace) -> None:
    for folder in options.folder:
        command(["sweep", options.sweep, "--no-wandb", "-j", str(options.jobs), "-o", str(folder)])
    _collect(options)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-j", "--jobs", type=int, default=2, help="runs at once (default: %(default)s)")
    _collect_arguments(parser)


def _collect(options: argparse.Namespace) -> None:
    for folder in options.folder:
        print(f"{SWEEPS[options.sweep](folder)} finished runs in {folder}")


def _collect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", choices=list(SWEEPS), help="which sweep the runs are of")
    parser.add_argument("folder", type=Path, nargs="+", help="of the runs")


def _report(options: argparse.Namespace) -> None:
    if options.random:
        measure_random(options.random)
    found = parts()
    for page in PAGES:
        update_page(page, found)
    draw_all(runs.read(), read_references())
    draw_swap(swap.read(), FIGURES / "import_swap.png")
    print("\n\n".join(found.values()))


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--random", type=int, metavar="N", help="measure the returns of random actions over N episodes first")


STUDY = Study(
    "learning",
    run=Verb("do the runs of a sweep that are missing in a folder, then collect them", _run, _run_arguments),
    collect=Verb("take the finished runs out of a sweep's folder", _collect, _collect_arguments),
    report=Verb("write tables and figures from the committed results", _report, _report_arguments),
)
