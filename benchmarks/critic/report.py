"""The table and the figure of :mod:`benchmarks.critic`, from whatever runs there are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import FIGURES, ROOT
from benchmarks.common.figures import OURS, THEIRS, finish, panels, steps_axis
from benchmarks.common.pages import update_page
from benchmarks.common.statistics import reproducible

PAGE = ROOT / "docs" / "critic.md"
FIGURE = FIGURES / "critic.png"
NAMES = {"adam": "Adam", "gauss_newton": "Gauss-Newton"}
COLORS = {"adam": THEIRS, "gauss_newton": OURS}
WARM_UP = 5
"""Updates at the start that are left out of means: there, both critics are strangers to the returns' scale."""


class Series:
    """
    A run's result.

    :param result: as read from its file
    """

    def __init__(self, result: dict[str, Any]):
        self.env, self.critic = result["run"]["env"], result["run"]["critic"]
        self.seed, self.n_timesteps = result["run"]["seed"], result["run"]["n_timesteps"]
        self._updates = result["updates"]

    def __getitem__(self, key: str) -> np.ndarray:
        return np.array([np.nan if value is None else value for value in self._updates[key]], dtype=float)

    @property
    def score(self) -> float:
        """Mean return over the last tenth of the updates, each the mean of 100 training episodes."""
        returns = self["return"]
        return float(np.nanmean(returns[-max(len(returns) // 10, 1) :]))

    def explained_variance(self, critic: str) -> float:
        """On the next rollout, mean over the updates."""
        return float(np.nanmean(self[f"{critic}_explained_variance"][WARM_UP:]))


def read(folder: Path) -> list[Series]:
    """
    Read what there is.

    :param folder: of the results
    :return: the runs, sorted by name
    """
    return [Series(json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]


def matched(runs: Sequence[Series]) -> list[Series]:
    """
    Leave out runs whose environment and seed the other critic has not done.

    :param runs: any
    :return: for comparisons of returns
    """
    keys = {critic: {(run.env, run.seed) for run in runs if run.critic == critic} for critic in NAMES}
    return [run for run in runs if all((run.env, run.seed) in done for done in keys.values())]


def _range(values: Sequence[float], digits: int) -> str:
    """Mean, and the smallest and largest of several."""
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def _quartiles(values: np.ndarray) -> str:
    low, middle, high = np.nanpercentile(values, [25, 50, 75])
    return f"{middle:.1f} × [{low:.1f}, {high:.1f}]"


def fit_table(runs: Sequence[Series]) -> list[str]:
    """
    Explained variance and time, for each environment and driver.

    :param runs: any
    :return: lines of Markdown
    """
    lines = [
        "| environment | driver | runs | explained variance, Adam | Gauss-Newton | difference | time, Adam / Gauss-Newton |",
        "|---|---|---|---|---|---|---|",
    ]
    for env in sorted({run.env for run in runs}):
        for critic, name in NAMES.items():
            group = [run for run in runs if (run.env, run.critic) == (env, critic)]
            if not group:
                continue
            adam, ours = ([run.explained_variance(which) for run in group] for which in NAMES)
            ratios = np.concatenate([run["adam_seconds"] / run["gauss_newton_seconds"] for run in group])
            difference = [b - a for a, b in zip(adam, ours, strict=True)]
            cells = [env, name, str(len(group)), _range(adam, 3), _range(ours, 3), _range(difference, 3), _quartiles(ratios)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def run_table(runs: Sequence[Series]) -> list[str]:
    """
    Returns and the time of ``train()``, for each environment and driver.

    :param runs: any
    :return: lines of Markdown
    """
    lines = ["| environment | critic | runs | return | `train()` time, sb3-contrib / ours |", "|---|---|---|---|---|"]
    for env in sorted({run.env for run in runs}):
        for critic, name in NAMES.items():
            group = [run for run in runs if (run.env, run.critic) == (env, critic)]
            if not group:
                continue
            ratios = np.concatenate([run["contrib_train_seconds"] / run["train_seconds"] for run in group])
            cells = [env, name, str(len(group)), _range([run.score for run in group], 0), _quartiles(ratios)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def normalised_scores(runs: Sequence[Series]) -> dict[str, np.ndarray]:
    """
    Scores by critic, 1 being the mean of Adam's in the same environment.

    :param runs: matched ones
    :return: critic → (seeds, environments), of the seeds that all environments have
    """
    envs = sorted({run.env for run in runs})
    seeds = sorted(set.intersection(*({run.seed for run in runs if run.env == env} for env in envs)))
    score = {(run.env, run.critic, run.seed): run.score for run in runs}
    adam = {env: np.mean([score[env, "adam", seed] for seed in seeds]) for env in envs}
    return {critic: np.array([[score[env, critic, seed] / adam[env] for env in envs] for seed in seeds]) for critic in NAMES}


def aggregate(runs: Sequence[Series]) -> list[str]:
    """
    Interquartile mean of the scores, with stratified bootstrap intervals.

    :param runs: matched ones
    :return: lines of Markdown
    """
    from rliable import library, metrics

    scores = normalised_scores(runs)
    seeds, envs = scores["adam"].shape
    if seeds < 2:
        return ["Too few seeds for an interval of the aggregated returns."]
    with reproducible():
        points, intervals = library.get_interval_estimates(
            scores, lambda matrix: np.array([metrics.aggregate_iqm(matrix)]), reps=5000
        )
    parts = [
        f"{NAMES[critic]} {points[critic][0]:.2f} [{intervals[critic][0, 0]:.2f}, {intervals[critic][1, 0]:.2f}]"
        for critic in NAMES
    ]
    return [
        f"Interquartile mean of the returns, 1 being the mean of Adam's in the same environment, over {envs} environments "
        f"and {seeds} seeds, with 95 % stratified bootstrap intervals: {', '.join(parts)}."
    ]


def section(runs: Sequence[Series], steps: int) -> list[str]:
    """
    Everything about the runs of one length.

    :param runs: of that length
    :param steps: the length
    :return: lines of Markdown
    """
    both = matched(runs)
    return [
        f"### Runs of {steps:,} steps",
        "",
        f"{len(runs)} runs; means over runs with the smallest and the largest in brackets, ratios of times as medians of the "
        "pairs with their quartiles.",
        "",
        *fit_table(runs),
        "",
        *([*run_table(both), "", *aggregate(both)] if both else ["No seed of an environment has been driven by both yet."]),
    ]


def draw(runs: Sequence[Series], path: Path) -> None:
    """
    Draw explained variance on the next rollout, both critics in the runs of either driver.

    :param runs: any
    :param path: the file to write
    """
    envs = sorted({run.env for run in runs})
    figure, axes = panels(2, len(envs), (4.4 * len(envs), 6.2), sharex="col")
    for column, env in zip(axes.T, envs, strict=True):
        for row, driver in zip(column, NAMES, strict=True):
            group = [run for run in runs if (run.env, run.critic) == (env, driver)]
            for run in group:
                for critic, color in COLORS.items():
                    label = NAMES[critic] if run is group[0] else None
                    row.plot(run["step"], run[f"{critic}_explained_variance"], color=color, alpha=0.7, lw=1, label=label)
            row.set(title=f"{env}, {NAMES[driver]} drives", ylim=(-0.1, 1.0))
            steps_axis(row)
        column[-1].set_xlabel("steps")
    for row in axes:
        row[0].set_ylabel("explained variance, next rollout")
    finish(figure, path, legend_columns=2)


def write_report(results: Path, page: Path = PAGE, figure: Path = FIGURE) -> None:
    """
    Write the tables into the page, and draw the figure.

    :param results: folder of the runs
    :param page: a file with the markers of ``critic``
    :param figure: the file to draw
    """
    runs = read(results)
    if not runs:
        return
    lines = []
    longest_first = sorted({run.n_timesteps for run in runs}, reverse=True)
    for steps in longest_first:
        lines += ["", *section([run for run in runs if run.n_timesteps == steps], steps)]
    lines += ["", f"![Explained variance on the next rollout](figures/{figure.name})", ""]
    update_page(page, {"critic": "\n".join(lines)})
    draw([run for run in runs if run.n_timesteps == longest_first[0]], figure)
