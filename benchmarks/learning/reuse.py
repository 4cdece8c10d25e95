"""
What the defaults were chosen among: rollouts per update, their length, the bound, the critic, the damping.

Runs are those of the sweep ``defaults`` with settings written beside the algorithm's name, on seeds from 100 on, which the
import swap does not report:

    sb3-trpo-fvp sweep defaults --no-wandb -o FOLDER --set seed=[100,101] 'algo=["trpo_fvp sample_reuse=2 n_steps=1024 …"]'
    python -m benchmarks.learning collect reuse FOLDER

The one setting for all environments is compared with the entries tuned for one in the same way, ``algo=["trpo_fvp","trpo_fvp
conf_file=single.yml"]`` with ``conf_file=trpo_fvp.yml``, and ``collect single FOLDER``.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import benchmarks
from benchmarks.common.pages import markdown_table
from benchmarks.learning import swap
from benchmarks.learning.swap import SwapRun
from sb3_trpo_fvp.zoo.configs import BASELINE

RESULTS = benchmarks.RESULTS / "sample_reuse"
DEFAULTS_OF_BEFORE = "n_steps=2048 target_kl=0.05 sample_reuse=1 critic=adam"
"""What the settings of a run are written over: the constructor's defaults when these runs were done."""


SINGLE = benchmarks.RESULTS / "single_setting"


def single_table(runs: Sequence[SwapRun]) -> str:
    """
    Tabulate the one setting for all environments beside the entries that were tuned for one.

    :param runs: of both, areas and returns of training episodes
    :return: markdown
    """
    body = []
    for env in sorted({run.env for run in runs}):
        cells = []
        for single in (False, True):
            of = [run for run in runs if run.env == env and ("single.yml" in run.variant) is single]
            cells += [f"{np.mean([run.area for run in of]):.0f}{_index(len(of))}", f"{np.mean([run.final for run in of]):.0f}"]
        steps = max(int(run.steps[-1]) for run in runs if run.env == env)
        body.append((env, f"{steps:,}", *cells))
    header = ("environment", "steps", "area, tuned entry", "at the end", "area, one setting", "at the end")
    return markdown_table(header, body)


def collect(sweep: Path) -> int:
    """
    Take the finished runs out of a sweep's folder.

    :param sweep: the folder
    :return: how many there are
    """
    return swap.collect(sweep, RESULTS)


def settings(variant: str) -> dict[str, str]:
    """
    Read what a variant sets.

    :param variant: such as ``trpo_fvp sample_reuse=4 n_steps=512``
    :return: every setting that the runs differ in
    """
    given = dict(setting.split("=", 1) for setting in f"{DEFAULTS_OF_BEFORE} {variant.partition(' ')[2]}".split())
    return {
        "M": given["sample_reuse"],
        "steps": given["n_steps"],
        "δ": given["target_kl"],
        "λ": given.get("cg_damping", "1.0"),
        "critic": _critic(given),
        "else": _else(given),
    }


def _else(given: dict[str, str]) -> str:
    """What only a few runs set."""
    names = {"policy_kwargs": "log σ", "sample_reuse_kwargs": "ρ ≤"}
    return ", ".join(f"{label} {given[name].rpartition(':')[2].rstrip('}')}" for name, label in names.items() if name in given)


def _critic(given: dict[str, str]) -> str:
    if given["critic"] == "adam":
        return f"Adam, {given.get('n_critic_updates', '10')} epochs"
    return f"Gauss-Newton, {'1 step' if 'critic_kwargs' in given else '3 steps'}"


def table(runs: Sequence[SwapRun], baseline: Sequence[SwapRun]) -> str:
    """
    Tabulate mean areas under the training curve.

    :param runs: with their settings beside the algorithm's name
    :param baseline: sb3-contrib's, on the seeds that the import swap reports
    :return: markdown
    """
    envs = sorted({run.env for run in runs})
    theirs = [run for run in baseline if run.variant == BASELINE]

    def cells(of: Sequence[SwapRun]) -> list[str]:
        found = []
        for env in envs:
            areas = [run.area for run in of if run.env == env]
            found.append(f"{np.mean(areas):.0f}{_index(len(areas))}" if areas else "–")
        return found

    body = [("sb3-contrib", "1", "2048", "0.01 A", "0.1 A", "Adam, 10 epochs", "", *cells(theirs))]
    rows = {variant: settings(variant) for variant in {run.variant for run in runs}}
    for variant, row in sorted(rows.items(), key=lambda item: (item[1]["critic"], int(item[1]["M"]), *item[1].values())):
        body.append(("this", *row.values(), *cells([run for run in runs if run.variant == variant])))
    short = [env.partition("-")[0].replace("Continuous", "Cont.") for env in envs]
    return markdown_table(("", "M", "steps", "δ", "λ", "critic", "", *short), body)


def _index(count: int) -> str:
    return str(count).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
