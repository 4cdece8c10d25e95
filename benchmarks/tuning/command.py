"""
The screening of hyperparameters for ``trpo_fvp.yml``: ``python -m benchmarks.tuning``.

Seven settings at two levels each, on every environment of the learning benchmark, in the 12 runs of a Plackett-Burman design
(Plackett and Burman, 1946): each level of each setting is in half of the runs, and each pair of levels of two settings in a
quarter of them, so that every run says something about every setting. The effect of a setting is the mean score of the runs
at its high level less that of those at its low one. The four columns of the design that no setting uses show how large noise
and interactions of settings, which a third of each reaches every column, are together. Scores are normalised final returns.

What that suggested was then tried on more seeds. ``candidates.yaml`` lists all of it. ``run FOLDER`` does the runs that are
missing, by ``sb3-trpo-fvp sweep`` and on seeds that the benchmark does not report, ``collect FOLDER`` takes the returns of
those that are done into ``benchmarks/results/screening.json``, and ``report``, the default, writes the tables from there.
"""

import argparse
import json
import sys
from pathlib import Path

import benchmarks
from benchmarks import ROOT
from benchmarks.common.pages import update_page
from benchmarks.common.study import Study, Verb
from benchmarks.learning.runs import LAST
from benchmarks.tuning.candidates import ENVS, SWAP_STEPS, runs_of, sweep_of
from benchmarks.tuning.report import Returns, parts
from sb3_trpo_fvp.cli import main as command
from sb3_trpo_fvp.zoo.results import load_results

RESULTS = benchmarks.RESULTS / "screening.json"
PAGE = ROOT / "docs" / "benchmarks.md"
EVALUATED = {"eval_freq": 10_000, "eval_episodes": 5, "n_eval_envs": 5}
"""The sweep of the import swap does not evaluate; final returns need it."""


def read() -> Returns:
    """
    Read what is committed.

    :return: final return of each run
    """
    lines = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    return {(line["env"], line["settings"], line["seed"], line["steps"]): line["return"] for line in lines}


def write(returns: Returns) -> None:
    """
    Commit the returns, in the order of :func:`runs_of`.

    :param returns: of each run
    """
    runs = [(env, *run) for env in ENVS for run in runs_of(env)]
    names = ("env", "settings", "seed", "steps", "return")
    lines = [json.dumps(dict(zip(names, (*run, returns[run]), strict=True))) for run in runs if run in returns]
    RESULTS.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def collect(sweep: Path) -> Returns:
    """
    Take the final returns of the finished runs.

    :param sweep: the folder
    :return: of each run of this study
    """
    wanted = {(env, *run) for env in ENVS for run in runs_of(env)}
    found: Returns = {}
    for result in load_results(sweep):
        parameters = result.parameters
        steps = parameters["n_timesteps"]
        settings = result.variant.removeprefix(sweep_of(steps)[1]).strip()
        run = (parameters["env"], settings, parameters["seed"], steps)
        if run in wanted:
            found[run] = round(float(result.evaluations()[1][-LAST:].mean()), 1)
    return found


def missing(returns: Returns) -> list[tuple[str, str, int, int]]:
    """
    List what is not done.

    :param returns: of what is
    :return: environment, settings, seed and steps of each run
    """
    return [(env, *run) for env in ENVS for run in runs_of(env) if (env, *run) not in returns]


def _run(options: argparse.Namespace) -> None:
    for env, settings, seed, steps in missing(read()):
        sweep, algorithm = sweep_of(steps)
        chosen = {"algo": [f"{algorithm} {settings}"], "env": env, "seed": seed, "n_timesteps": steps}
        chosen |= EVALUATED if steps == SWAP_STEPS else {}
        values = [f"{name}={json.dumps(value)}" for name, value in chosen.items()]
        command(["sweep", sweep, "--no-wandb", "-o", str(options.folder), "--set", *values])
    _collect(options)


def _collect(options: argparse.Namespace) -> None:
    write(read() | collect(options.folder))
    _report(options)


def _folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="of the runs")


def _report(options: argparse.Namespace) -> None:
    returns = read()
    if unfinished := missing(returns):
        sys.exit(f"{len(unfinished)} runs are not finished, and the page is as it was: {unfinished}")
    found = parts(returns)
    update_page(PAGE, found)
    print("\n\n".join(found.values()))


STUDY = Study(
    "tuning",
    run=Verb("do the runs that are missing in a folder, then collect and report", _run, _folder),
    collect=Verb("take the returns of a folder's finished runs, then report", _collect, _folder),
    report=Verb("write the tables from the committed results", _report),
)
