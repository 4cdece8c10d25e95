"""The sweep ``reference``: final returns at full budgets, against sb3-contrib's TRPO and Stable-Baselines3's PPO."""

from collections.abc import Sequence

import numpy as np

from benchmarks.common.pages import markdown_table
from benchmarks.common.statistics import write
from benchmarks.learning.compare import ahead, cpu_ratio
from benchmarks.learning.runs import OWN, LearningRun
from sb3_trpo_fvp.zoo.compare.summary import bootstrap

NAMES = {"trpo": "sb3-contrib's TRPO", "ppo": "SB3's PPO", OWN: "this TRPO"}
"""What the page calls the algorithms, by RL-Zoo's key."""


def table(runs: Sequence[LearningRun]) -> str:
    """
    Tabulate final returns, and how likely a run of this project's ends above another's.

    :param runs: any, of one variant of each algorithm
    :return: markdown
    """
    if not runs:
        return "No run yet."
    arms = {algo: [run for run in runs if run.variant.split()[0] == algo] for algo in NAMES}
    arms = {algo: of for algo, of in arms.items() if of}
    others = [algo for algo in arms if algo != OWN] if OWN in arms else []
    body = []
    for env in sorted({run.env for run in runs}):
        here = {algo: sorted((run for run in of if run.env == env), key=lambda run: run.seed) for algo, of in arms.items()}
        steps = f"{max(run.steps[-1] for of in here.values() for run in of):,}"
        counts = " / ".join(str(len(of)) for of in here.values())
        finals = [write(bootstrap(np.array([run.final for run in of])), 0, len(of)) if of else "–" for of in here.values()]
        chances = [ahead(_finals(here[OWN]), _finals(here[algo])) for algo in others]
        times = [cpu_ratio(here[algo], here[OWN]) for algo in others]
        body.append((env, steps, counts, *finals, *chances, *times))
    if others:
        chances = [ahead(_finals(arms[OWN]), _finals(arms[algo])) for algo in others]
        body.append(("all that both have", *[""] * (2 + len(arms)), *chances, *[""] * len(others)))
    header = (
        "environment",
        "steps",
        "seeds",
        *(NAMES[algo] for algo in arms),
        *(f"P(this ends above {NAMES[algo]})" for algo in others),
        *(f"CPU time, {NAMES[algo]} / this" for algo in others),
    )
    return markdown_table(header, body)


def _finals(runs: Sequence[LearningRun]) -> dict[str, list[float]]:
    """Return the final returns by environment."""
    return {env: [run.final for run in runs if run.env == env] for env in sorted({run.env for run in runs})}
