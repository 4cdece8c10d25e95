"""The figures of :mod:`benchmarks.learning`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from benchmarks import FIGURES
from benchmarks.common.figures import GREEN, LIGHT, OURS, PINK, THEIRS, band, finish, panels, steps_axis
from benchmarks.common.references import References
from benchmarks.common.statistics import REPETITIONS, improvement, reproducible
from benchmarks.learning.compare import matched, scores
from benchmarks.learning.runs import ALIKE, BASELINE, NAMES, OWN, LearningRun
from benchmarks.learning.swap import SwapRun
from sb3_trpo_fvp.zoo.compare.summary import bootstrap

COLORS = dict(zip(NAMES, (THEIRS, OURS, LIGHT, PINK, GREEN), strict=True))


def draw_curves(runs: Sequence[LearningRun], variants: Sequence[str], path: Path) -> None:
    """
    Draw the learning curves, one panel for each environment.

    :param runs: any
    :param variants: which algorithms
    :param path: the file to write
    """
    runs = [run for run in runs if run.variant in variants]
    envs = sorted({run.env for run in runs})
    columns, rows = min(3, len(envs)), -(-len(envs) // 3)
    figure, grid = panels(rows, columns, (4.2 * columns, 3.4 * rows))
    for axes in grid.flatten()[len(envs) :]:
        axes.set_axis_off()
    for axes, env in zip(grid.flatten(), envs, strict=False):
        for variant in variants:
            curves = [run for run in runs if (run.env, run.variant) == (env, variant)]
            if not curves:
                continue
            length = min(len(run.steps) for run in curves)
            returns = np.array([run.returns[:length].mean(1) for run in curves])
            band(axes, curves[0].steps[:length], bootstrap(returns), COLORS[variant], label=NAMES[variant])
        axes.set(title=env, xlabel="steps", ylabel="return")
        steps_axis(axes)
    finish(figure, path, "lines: mean over seeds, bands: its 95 % bootstrap interval", legend_columns=4)


def draw_swap(runs: Sequence[SwapRun], path: Path) -> None:
    """
    Draw the training curves of the import swap, one panel for each environment.

    :param runs: of both algorithms
    :param path: the file to write
    """
    envs = sorted({run.env for run in runs})
    figure, grid = panels(2, 5, (12.6, 5.0))
    for axes, env in zip(grid.flatten(), envs, strict=False):
        for variant, color, label in ((BASELINE, THEIRS, "sb3-contrib"), (OWN, OURS, "this project")):
            curves = [run for run in runs if (run.env, run.variant) == (env, variant)]
            if curves:
                band(axes, curves[0].steps, bootstrap(np.array([run.returns for run in curves])), color, label=label)
        axes.set_title(env.partition("-")[0].replace("Continuous", "Cont."), fontsize=10)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        steps_axis(axes)
    grid[0, 0].set_ylabel("return")
    grid[1, 0].set_ylabel("return")
    finish(figure, path, "constructor defaults of both, ten seeds: mean return of training episodes and its 95 % interval", 2)


def draw_aggregates(runs: Sequence[LearningRun], references: References, path: Path) -> None:
    """
    Draw all environments together: interquartile mean over steps, performance profile of the final returns, probability of
    improvement over the baseline.

    :param runs: any
    :param references: random and reference return of each environment
    :param path: the file to write
    """
    from rliable import library

    variants = [name for name in NAMES if any(run.variant == name for run in runs)]
    figure, grid = panels(1, 3, (12.6, 3.8))
    efficiency, profile, chances = grid[0]
    rows = []
    for variant in variants:
        pair = matched(runs, dict.fromkeys((BASELINE, variant)))
        if not pair[variant]:
            continue
        matrix = scores(pair[variant], references)
        if variant != BASELINE and len(matrix) > 1:
            rows.append((variant, improvement(matrix[:, :, -1], scores(pair[BASELINE], references)[:, :, -1])))
        if variant in ALIKE[1:]:  # one of them is enough to be compared with this project's own
            continue
        steps = next(iter(pair[variant].values())).steps
        with reproducible():
            points, spread = library.get_interval_estimates({"x": matrix}, _iqm_over_steps, reps=REPETITIONS // 4)
            taus = np.linspace(0.0, 1.2, 61)
            curve, profile_spread = library.create_performance_profile({"x": matrix[:, :, -1]}, taus, reps=REPETITIONS // 4)
        band(efficiency, steps, (points["x"], *spread["x"]), COLORS[variant], label=NAMES[variant])
        band(profile, taus, (curve["x"], *profile_spread["x"]), COLORS[variant])
    efficiency.set(title="interquartile mean", xlabel="steps", ylabel="normalised return")
    steps_axis(efficiency)
    profile.set(
        title="performance profile", xlabel="normalised final return τ", ylabel="share of runs above τ", ylim=(0, 1.02)
    )
    for index, (variant, (middle, low, high)) in enumerate(rows):
        chances.plot([low, high], [index, index], color=COLORS[variant], lw=6, alpha=0.35, solid_capstyle="butt")
        chances.plot([middle], [index], "o", color=COLORS[variant])
    chances.axvline(0.5, color="0.4", lw=1, ls="--")
    chances.set_yticks(range(len(rows)), [NAMES[variant].replace(", ", ",\n") for variant, _ in rows])
    chances.set(title="P(ends above a run of sb3-contrib's)", xlim=(0, 1), ylim=(-0.6, max(len(rows), 1) - 0.4))
    finish(figure, path, "all environments; bands and bars: 95 % stratified bootstrap intervals", legend_columns=4)


def _iqm_over_steps(matrix: np.ndarray) -> np.ndarray:
    from rliable import metrics

    return np.array([metrics.aggregate_iqm(matrix[:, :, index]) for index in range(matrix.shape[2])])


def draw_all(runs: Sequence[LearningRun], references: References, folder: Path = FIGURES) -> None:
    """
    Draw the figures of the pages.

    :param runs: any
    :param references: random and reference return of each environment
    :param folder: where to
    """
    if any(run.variant in ALIKE for run in runs):
        draw_curves(runs, (BASELINE, *ALIKE), folder / "learning_like_for_like.png")
    if any(run.variant == OWN for run in runs):
        draw_curves(runs, (BASELINE, OWN), folder / "learning.png")
    if any(run.variant != BASELINE for run in runs):
        draw_aggregates(runs, references, folder / "learning_aggregates.png")
