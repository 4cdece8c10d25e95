"""The figures of :mod:`benchmarks.learning.runs`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.learning.report import ALIKE, REPETITIONS, References, improvement, matched, reproducible, scores
from benchmarks.learning.runs import BASELINE, NAMES, OWN, ROOT, Run
from sb3_trpo_fvp.zoo.compare.summary import bootstrap

FIGURES = ROOT / "docs" / "figures"
# Apart for every kind of colour vision (Okabe and Ito).
COLORS = dict(zip(NAMES, ("#d55e00", "#0072b2", "#56b4e9", "#cc79a7", "#009e73"), strict=True))


def draw_curves(runs: Sequence[Run], variants: Sequence[str], path: Path) -> None:
    """
    Draw the learning curves, one panel for each environment.

    :param runs: any
    :param variants: which algorithms
    :param path: the file to write
    """
    runs = [run for run in runs if run.variant in variants]
    envs = sorted({run.env for run in runs})
    figure = Figure(figsize=(4.2 * min(3, len(envs)), 3.4 * -(-len(envs) // 3)), layout="constrained")
    panels = figure.subplots(-(-len(envs) // 3), min(3, len(envs)), squeeze=False).flatten()
    for axes in panels[len(envs) :]:
        axes.set_axis_off()
    for axes, env in zip(panels, envs, strict=False):
        for variant in variants:
            curves = [run for run in runs if (run.env, run.variant) == (env, variant)]
            if not curves:
                continue
            length = min(len(run.steps) for run in curves)
            _band(axes, curves[0].steps[:length], np.array([run.returns[:length].mean(1) for run in curves]), variant)
        axes.set(title=env, xlabel="steps", ylabel="return")
        axes.xaxis.set_major_formatter(_thousands)
    _finish(figure, "lines: mean over seeds, bands: its 95 % bootstrap interval", path)


def draw_aggregates(runs: Sequence[Run], references: References, path: Path) -> None:
    """
    Draw all environments together: interquartile mean over steps, performance profile of the final returns, probability of
    improvement over the baseline.

    :param runs: any
    :param references: random and reference return of each environment
    :param path: the file to write
    """
    from rliable import library

    variants = [name for name in NAMES if any(run.variant == name for run in runs)]
    figure = Figure(figsize=(12.6, 3.8), layout="constrained")
    efficiency, profile, chances = figure.subplots(1, 3)
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
        efficiency.plot(steps, points["x"], color=COLORS[variant], label=NAMES[variant], lw=1.5)
        efficiency.fill_between(steps, *spread["x"], color=COLORS[variant], alpha=0.18, lw=0)
        profile.plot(taus, curve["x"], color=COLORS[variant], lw=1.5)
        profile.fill_between(taus, *profile_spread["x"], color=COLORS[variant], alpha=0.18, lw=0)
    efficiency.set(title="interquartile mean", xlabel="steps", ylabel="normalised return")
    efficiency.xaxis.set_major_formatter(_thousands)
    profile.set(
        title="performance profile", xlabel="normalised final return τ", ylabel="share of runs above τ", ylim=(0, 1.02)
    )
    for index, (variant, (middle, low, high)) in enumerate(rows):
        chances.plot([low, high], [index, index], color=COLORS[variant], lw=6, alpha=0.35, solid_capstyle="butt")
        chances.plot([middle], [index], "o", color=COLORS[variant])
    chances.axvline(0.5, color="0.4", lw=1, ls="--")
    chances.set_yticks(range(len(rows)), [NAMES[variant].replace(", ", ",\n") for variant, _ in rows])
    chances.set(title="P(ends above a run of sb3-contrib's)", xlim=(0, 1), ylim=(-0.6, max(len(rows), 1) - 0.4))
    _finish(figure, "all environments; bands and bars: 95 % stratified bootstrap intervals", path)


def _iqm_over_steps(matrix: np.ndarray) -> np.ndarray:
    from rliable import metrics

    return np.array([metrics.aggregate_iqm(matrix[:, :, index]) for index in range(matrix.shape[2])])


def _band(axes: Axes, x: np.ndarray, samples: np.ndarray, variant: str) -> None:
    mean, low, high = bootstrap(samples)
    axes.plot(x, mean, color=COLORS[variant], label=NAMES[variant], lw=1.5)
    axes.fill_between(x, low, high, color=COLORS[variant], alpha=0.18, lw=0)


def _thousands(value: float, _: Any) -> str:
    return f"{value / 1000:g}k" if value else "0"


def _finish(figure: Figure, title: str, path: Path) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_all(runs: Sequence[Run], references: References, folder: Path = FIGURES) -> None:
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
