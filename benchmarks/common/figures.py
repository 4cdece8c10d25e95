"""One look for all figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS, THEIRS, LIGHT, PINK, GREEN, GREY = "#0072b2", "#d55e00", "#56b4e9", "#cc79a7", "#009e73", "#555555"
"""Colours that are apart for every kind of colour vision (Okabe and Ito)."""


def panels(rows: int, columns: int, size: tuple[float, float], **shared: Any) -> tuple[Figure, np.ndarray]:
    """
    Begin a figure.

    :param rows: of panels
    :param columns: of panels
    :param size: width and height of the whole figure, inches
    :param shared: ``sharex`` and ``sharey``, as Matplotlib has them
    :return: the figure, and its axes of shape (rows, columns)
    """
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def steps_axis(axes: Axes) -> None:
    """
    Count a horizontal axis in thousands.

    :param axes: whose
    """
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")


def band(
    axes: Axes, x: Sequence[float] | np.ndarray, curve: tuple[Any, Any, Any], color: str, line: str = "-", label: str = ""
) -> None:
    """
    Draw a curve in its band.

    :param axes: where
    :param x: horizontal coordinates, (n,)
    :param curve: the middle, and the band's lower and upper edge, (n,) each
    :param color: of both
    :param line: Matplotlib's style
    :param label: for the legend, none if empty
    """
    middle, low, high = curve
    axes.plot(x, middle, line, color=color, label=label or None, lw=1.5)
    axes.fill_between(x, low, high, color=color, alpha=0.18, lw=0)


def finish(figure: Figure, path: Path, title: str = "", legend_columns: int = 0) -> None:
    """
    Style a figure's axes and write it.

    :param figure: the figure
    :param path: the file
    :param title: above everything, none if empty
    :param legend_columns: of a legend below everything, each label once; without such a legend if 0
    """
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    if legend_columns:
        handles = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=legend_columns, frameon=False)
    if title:
        figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
