"""The two figures of :mod:`benchmarks.speed`, drawn from its results."""

import statistics
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from benchmarks.common.figures import GREY, OURS, PINK, THEIRS, band, finish, panels

STYLE = {
    "sb3-contrib": (THEIRS, "-", "o", "sb3-contrib"),
    "flat double backpropagation": (PINK, "-", "s", "one flat double backpropagation"),
    "gauss_newton": (OURS, "-", "D", "this package, gauss_newton"),
    "matrix products alone": (GREY, "--", "", "floor: the layers' matrix products alone"),
}
"""Colour, line, marker and name of each product."""


def draw_cost(curve: dict[str, Any], threads: int, file: Path) -> None:
    """
    Draw the cost per product against the number of states and against width, logarithmic on both axes.

    :param curve: of :func:`benchmarks.speed.cost_curve.cost`
    :param threads: that it was measured with
    :param file: where to
    """
    figure, grid = panels(1, 2, (10.5, 4.4), sharey=True)
    axes = grid[0]
    size = f"{curve['unit_size']:,}"
    sides = (("by_size", "states N (two layers of 64)"), ("by_width", f"width of both layers (N = {size})"))
    for axis, (key, label) in zip(axes, sides, strict=True):
        points = curve[key]
        x = [point["at"] for point in points]
        for name, (color, line, marker, text) in STYLE.items():
            axis.plot(x, [point[name] for point in points], line, color=color, marker=marker, markersize=5, label=text)
        axis.set(xscale="log", yscale="log", xlabel=label)
        axis.set_xticks(x, [f"{value:,}" for value in x])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0].set_ylabel(f"cost of one product\n(floor at 64-64, N = {size} is 1)")
    axes[0].legend(frameon=False, loc="upper left", fontsize=9)
    finish(figure, file, f"Cost of one Fisher-vector product, HalfCheetah-v5 policy, {threads} thread{'s' * (threads > 1)}")


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
    figure, grid = panels(1, len(dampings), (5.25 * len(dampings), 4.4), sharey=True)
    axes = grid[0]
    for axis, damping in zip(axes, dampings, strict=True):
        chosen = [record for record in records if record["damping"] == damping]
        steps = list(range(1, len(chosen[0]["ours"]["none"]) + 1))
        for solver, shift, line, text in (
            ("kronecker", setup, "-", "this package (setting up counted)"),
            ("none", 0.0, "--", "this package, not preconditioned"),
        ):
            curve = _quartiles([record["ours"][solver] for record in chosen])
            band(axis, [k + shift for k in steps], curve, OURS, line, text)
        spent = sorted(int(k) for k in chosen[0]["theirs"])
        for key, line, text in (
            ("theirs", "-", "sb3-contrib's direction"),
            ("theirs_own_beta", "--", "sb3-contrib's step (damped β)"),
        ):
            curve = _quartiles([[record[key][str(k)] for k in spent] for record in chosen])
            band(axis, spent, curve, THEIRS, line, text)
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
    axes[0].set_ylabel("predicted improvement,\nof that of the exact solution")
    axes[-1].legend(frameon=False, loc="lower right", fontsize=8.5)
    names = sorted({record["env"].partition("-")[0] for record in records})
    rollouts = len(records) // len(dampings)
    finish(figure, file, f"What a product buys: {', '.join(names)} ({rollouts} rollouts, median and quartiles)")


def _quartiles(curves: list[list[float]]) -> tuple[list[float], list[float], list[float]]:
    """Return median, lower and upper quartile over curves; of one, the curve itself three times."""
    if len(curves) == 1:
        return curves[0], curves[0], curves[0]
    columns = [statistics.quantiles(column, n=4, method="inclusive") for column in zip(*curves, strict=True)]
    low, middle, high = zip(*columns, strict=True)
    return list(middle), list(low), list(high)
