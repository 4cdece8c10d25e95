"""
Speed of several ranks: ``python -m benchmarks.scaling``.

Measuring policy. The work per rank is the same however many there are (weak scaling): environments of its own, so many steps
of each, one torch thread. Runs of 1 and of 2 ranks follow each other in turns, each in processes of its own; a run's figure is
the median over its updates after the first, and the result is the ratio of steps per second, the median over the pairs with
its quartiles. Communication is what the ranks themselves log, and includes waiting for the slower one.

The model's link is fitted to the quickest all-reduces of 2 and 4 ranks that do nothing else on this machine; its work is the
CPU time of runs of one rank. Other processes disturb neither much. What it says of 8, 64 and 512 ranks is on paper: a
ring of 10 Gbit/s, the software's latency as measured here plus an assumed one of the network, one rank a link.
"""

import argparse
import json

from benchmarks import ROOT
from benchmarks.common.pages import update_page
from benchmarks.common.study import Study, Verb
from benchmarks.scaling.measure import RESULTS, measure
from benchmarks.scaling.report import report

PAGE = ROOT / "docs" / "distributed.md"


def _run(options: argparse.Namespace) -> None:
    RESULTS.write_text(json.dumps(measure(options), indent=1) + "\n", encoding="utf-8")
    _report(options)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", default="Humanoid-v5", help="the environment (default: %(default)s)")
    parser.add_argument("--n-envs", type=int, default=2, help="environments of a rank (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=4, help="measured updates of a run (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=7, help="runs of one rank and of two (default: %(default)s)")
    parser.add_argument("--note", default="", help="what a reader must know about the machine")


def _report(options: argparse.Namespace) -> None:
    text = report(json.loads(RESULTS.read_text(encoding="utf-8")))
    update_page(PAGE, {"scaling": text})
    print(text)


STUDY = Study(
    "scaling",
    run=Verb("measure, then report", _run, _run_arguments),
    report=Verb("write the section of the page from the committed results", _report),
    default="run",
)
