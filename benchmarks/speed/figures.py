"""The two figures of the speed study, drawn from its results."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

OURS, THEIRS, OTHERS, FLOOR = "#0072B2", "#D55E00", "#CC79A7", "#555555"
STYLE = {
    "sb3-contrib": (THEIRS, "-", "o", "sb3-contrib"),
    "flat double backpropagation": (OTHERS, "-", "s", "one flat double backpropagation"),
    "gauss_newton": (OURS, "-", "D", "this package, gauss_newton"),
    "matrix products alone": (FLOOR, "--", "", "floor: the layers' matrix products alone"),
}
"""Colour (told apart by all eyes), line, marker and name of each product."""


def draw_cost(curve: dict[str, Any], threads: int, file: Path) -> None:
    """
    Draw the cost per product against the number of states and against width, logarithmic on both axes.

    :param curve: of :func:`benchmarks.speed.cost_curve.cost`
    :param threads: that it was measured with
    :param file: where to
    """
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.4), sharey=True, layout="constrained")
    size = f"{curve['unit_size']:,}"
    panels = (("by_size", "states N (two layers of 64)"), ("by_width", f"width of both layers (N = {size})"))
    for axis, (key, label) in zip(axes, panels, strict=True):
        points = curve[key]
        x = [point["at"] for point in points]
        for name, (color, line, marker, text) in STYLE.items():
            axis.plot(x, [point[name] for point in points], line, color=color, marker=marker, markersize=5, label=text)
        axis.set(xscale="log", yscale="log", xlabel=label)
        axis.set_xticks(x, [f"{value:,}" for value in x])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.grid(alpha=0.25)
    axes[0].set_ylabel(f"cost of one product\n(floor at 64-64, N = {size} is 1)")
    axes[0].legend(frameon=False, loc="upper left", fontsize=9)
    figure.suptitle(f"Cost of one Fisher-vector product, HalfCheetah-v5 policy, {threads} thread{'s' * (threads > 1)}")
    _finish(figure, axes, file)


def draw_improvement(curve: dict[str, Any], default: float, default_products: int, file: Path) -> None:
    """
    Draw the predicted improvement against products spent, one panel for each damping.

    :param curve: of :func:`benchmarks.speed.improvement_curve.improvement`
    :param default: this package's default ``cg_residual_tol``
    :param default_products: that sb3-contrib spends at its defaults
    :param file: where to
    """
    records, setup = curve["records"], curve["setup"]
    dampings = sorted({record["damping"] for record in records}, reverse=True)
    figure, axes = plt.subplots(1, len(dampings), figsize=(5.25 * len(dampings), 4.4), sharey=True, layout="constrained")
    for axis, damping in zip(axes, dampings, strict=True):
        chosen = [record for record in records if record["damping"] == damping]
        steps = list(range(1, len(chosen[0]["ours"]["none"]) + 1))
        for solver, shift, line, text in (
            ("kronecker", setup, "-", "this package (setting up counted)"),
            ("none", 0.0, "--", "this package, not preconditioned"),
        ):
            _band(axis, [k + shift for k in steps], [record["ours"][solver] for record in chosen], OURS, line, text)
        spent = sorted(int(k) for k in chosen[0]["theirs"])
        for key, line, text in (
            ("theirs", "-", "sb3-contrib's direction"),
            ("theirs_own_beta", "--", "sb3-contrib's step (damped β)"),
        ):
            _band(axis, spent, [[record[key][str(k)] for k in spent] for record in chosen], THEIRS, line, text)
            end = statistics.median(record[key][str(default_products)] for record in chosen)
            axis.plot(default_products, end, "o", color=THEIRS, markersize=8, markeredgecolor="white", zorder=5)
        stops = [stop for record in chosen for stop in record["stops"]["kronecker"] if stop["tolerance"] == default]
        x = statistics.median(stop["products"] for stop in stops) + setup
        y = statistics.median(stop["fraction"] for stop in stops)
        axis.plot(x, y, "D", color=OURS, markersize=8, markeredgecolor="white", zorder=5)
        axis.plot([], [], "D", color=OURS, linestyle="none", label=f"stops here by default (residual {default:g})")
        axis.plot([], [], "o", color=THEIRS, linestyle="none", label=f"stops here by default ({default_products} products)")
        axis.set(xlabel="products spent", title=f"damping λ = {damping:g}", ylim=(0.4, 1.03), xlim=(0.5, steps[-1] + 0.5))
        axis.set_xticks(range(2, steps[-1] + 1, 2))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("predicted improvement,\nof that of the exact solution")
    axes[-1].legend(frameon=False, loc="lower right", fontsize=8.5)
    names = sorted({record["env"].partition("-")[0] for record in records})
    rollouts = len(records) // len(dampings)
    figure.suptitle(f"What a product buys: {', '.join(names)} ({rollouts} rollouts, median and quartiles)")
    _finish(figure, axes, file)


def _band(axis: Axes, x: Sequence[float], curves: list[list[float]], color: str, line: str, label: str) -> None:
    """Draw the median over curves, and a band between the quartiles."""
    columns = list(zip(*curves, strict=True))
    axis.plot(x, [statistics.median(column) for column in columns], line, color=color, label=label)
    if len(curves) > 1:
        quartiles = [statistics.quantiles(column, n=4, method="inclusive") for column in columns]
        axis.fill_between(x, [q[0] for q in quartiles], [q[2] for q in quartiles], color=color, alpha=0.13, linewidth=0)


def _finish(figure: Any, axes: Any, file: Path) -> None:
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    plt.close(figure)
