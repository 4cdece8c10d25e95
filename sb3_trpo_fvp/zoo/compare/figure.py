"""The figure of ``sb3-trpo-fvp compare``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sb3_trpo_fvp.zoo.compare.summary import Summary, bootstrap

COLORS = ("#d55e00", "#0072b2")  # apart for every kind of colour vision (Okabe and Ito)


def draw(path: Path, title: str, algorithms: Sequence[Summary]) -> None:
    """
    Draw the returns over steps and over time, and the KL of every update against its bound.

    :param path: the file to write
    :param title: the figure's title
    :param algorithms: what was measured, the baseline first
    """
    figure = Figure(figsize=(13, 4.2))
    figure.set_layout_engine("constrained", wspace=0.06)
    by_steps, by_time, kl = figure.subplots(1, 3)
    for color, algorithm in zip(COLORS, algorithms, strict=True):
        _curve(by_steps, algorithm.steps, algorithm, color)
        _curve(by_time, algorithm.times, algorithm, color)
        for steps, ratios in algorithm.kl_over_bound:
            kl.plot(steps, ratios, ".", color=color, alpha=0.6, markersize=7, markeredgewidth=0)
    by_steps.set(title="Return against environment steps", xlabel="steps", ylabel="mean return of an evaluation")
    by_time.set(title="Return against training time", xlabel="seconds, evaluations left out")
    kl.set(title="Joint KL of each update, over its bound", xlabel="steps", ylabel="KL(old ‖ new) / target_kl")
    kl.axhline(1.0, color="black", linewidth=1.2, linestyle="--")
    kl.annotate("the bound", (0.01, 1.0), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points")
    largest = max(max(ratios) for algorithm in algorithms for _, ratios in algorithm.kl_over_bound)
    kl.set_ylim(0.0, 1.1 * max(largest, 1.1))
    for axes in (by_steps, by_time, kl):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(left=0)
    for axes in (by_steps, kl):
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
    handles, labels = by_steps.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(f"{title}\nlines: mean over seeds, bands: 95 % bootstrap interval, dots: one update each", fontsize=11)
    figure.savefig(path, dpi=130)


def _curve(axes: Any, x: Sequence[float], algorithm: Summary, color: str) -> None:
    mean, low, high = bootstrap(np.asarray(algorithm.returns))
    axes.plot(x, mean, color=color, label=algorithm.label, marker="o", markersize=3)
    axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
