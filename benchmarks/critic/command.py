"""
Gauss-Newton against Adam for the critic: ``python -m benchmarks.critic``.

Measuring policy. One critic drives each run, the other is its shadow: at every update both are fitted to the same
returns at the same states, and before that both are asked for the values of states that neither was fitted to, those of
the next rollout. Explained variance is measured against the driver's returns, which favours the driver; therefore each
critic drives once for every environment and seed. Adam has the epochs, minibatches and learning rate of RL-Zoo. Both fits
of an update run right after each other in one process, every other time in the opposite order, and so does sb3-contrib's
``train()``, at RL-Zoo's setting, on the same rollout and weights at every tenth update. The clock is the process's own
CPU time on one thread, which leaves out what other processes take; ratios are the only results.

A run is a file of its own under ``benchmarks/results/critic``, with the environment that gave it. Those that are there are
not done again, so the study may be stopped and started at any time; ``report`` draws up what there is.
"""

import argparse
import json
import os

import benchmarks
from benchmarks.common.study import Study, Verb
from benchmarks.critic.report import write_report
from benchmarks.critic.study import ENVIRONMENTS, plan, train

RESULTS = benchmarks.RESULTS / "critic"


def _run(options: argparse.Namespace) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for run in plan(options.env, options.seeds, options.timesteps):
        path = RESULTS / run.file_name
        if path.exists():
            continue
        print(f"{run.env}, {run.critic} drives, seed {run.seed}", flush=True)
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        partial.write_text(json.dumps(train(run)) + "\n")
        partial.rename(path)
    write_report(RESULTS)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", nargs="+", default=ENVIRONMENTS, help="environments (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default: %(default)s)")
    parser.add_argument("--timesteps", type=int, default=300_000, help="steps of a run (default: %(default)s)")


STUDY = Study(
    "critic",
    run=Verb("do the runs that are missing, then report", _run, _run_arguments),
    report=Verb("write the tables and the figure from the committed results", lambda options: write_report(RESULTS)),
    default="run",
)
