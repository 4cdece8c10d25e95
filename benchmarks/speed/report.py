"""The results of :mod:`benchmarks.speed` as tables: for the terminal, and as markdown for pages."""

from typing import Any

from rich.table import Table

from benchmarks.common.pages import markdown_table
from benchmarks.common.pairs import Summary
from benchmarks.speed.improvement_curve import DAMPINGS, MAX_PRODUCTS, improvement_summary
from benchmarks.speed.rows import ROWS, Row

HEADER = ("what", "work", "against", "target", "1 thread", "2 threads")


def cell(row: Row, results: dict[str, Any], threads: int) -> str:
    """
    Write one measurement: median, quartiles, and a verdict where the target is meant for this number of threads.

    :param row: which
    :param results: as committed
    :param threads: torch's
    :return: such as ``4.1 (4.0–4.3) ✓``
    """
    measured = results["rows"].get(row.key, {}).get(str(threads))
    if measured is None:
        return "–"
    ratio = row.target.ratio(measured)
    verdict = "" if threads not in row.target.threads else " ✓" if row.target.is_met(ratio) else " ✗"
    return _spread(ratio) + verdict


def _spread(ratio: Summary) -> str:
    digits = 1 if ratio.median >= 10 else 2
    return f"{ratio.median:.{digits}f} ({ratio.lower:.{digits}f}–{ratio.upper:.{digits}f})"


def lines(results: dict[str, Any], rows: tuple[Row, ...] = ROWS) -> list[tuple[str, ...]]:
    """
    Tabulate.

    :param results: as committed
    :param rows: which
    :return: one tuple for each row, as :data:`HEADER` names them
    """
    return [(row.what, row.work, row.reference, str(row.target), cell(row, results, 1), cell(row, results, 2)) for row in rows]


def terminal_table(results: dict[str, Any], rows: tuple[Row, ...] = ROWS) -> Table:
    """
    Tabulate for a terminal.

    :param results: as committed
    :param rows: which
    :return: for rich to print
    """
    table = Table(*HEADER, title="Measured against target: median of pairs (quartiles)")
    for line in lines(results, rows):
        style = "red" if "✗" in line[4] + line[5] else "green" if "✓" in line[4] + line[5] else None
        table.add_row(*(text.replace("`", "") for text in line), style=style)
    return table


def markdown(results: dict[str, Any]) -> dict[str, str]:
    """
    Write everything that a page shows of the results.

    :param results: as committed
    :return: text by the name of its markers
    """
    table = lines(results)
    # Without the targets, marks for reaching them mean nothing.
    brief = [(what, work, against, *(text.rstrip(" ✓✗") for text in cells)) for what, work, against, _, *cells in table]
    parts = {
        "speed-table": markdown_table(HEADER, table),
        "speed-summary": markdown_table((*HEADER[:3], *HEADER[4:]), brief),
        "speed-environment": _environment(results),
    }
    if "improvement" in results["curves"]:
        parts["speed-improvement"] = _improvement(results["curves"]["improvement"])
    return parts


def _environment(results: dict[str, Any]) -> str:
    environment = results["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items() if number)
    loads = [measured["load"] for row in results["rows"].values() for measured in row.values() if measured["load"] is not None]
    busy = f" Load average before each row: {min(loads):.1f} to {max(loads):.1f}." if loads else ""
    note = f" **{environment['note']}**" if environment["note"] else ""
    return (
        f"Measured on {environment['cpu']}, {environment['cpu_count']} cores, {environment['os']}, Python "
        f"{environment['python']}, {versions}, commit {environment['commit']}, at least {results['pairs']} pairs a row "
        f"(memory: 2).{busy}{note}"
    )


def _improvement(curve: dict[str, Any]) -> str:
    header = (
        *("damping λ", "`cg_residual_tol`", "products, preconditioned", "predicted improvement, median (worst)"),
        *("products, not preconditioned", "predicted improvement, median (worst)"),
    )
    body, sentences = [], []
    for damping in DAMPINGS:
        summary = improvement_summary(curve, damping)
        for with_it, without in zip(*summary["stops"].values(), strict=True):
            cells = [f"{damping:g}", f"{with_it['tolerance']:g}"]
            for stop in (with_it, without):
                cells += [f"{stop['products']:g}", f"{100 * stop['median']:.1f} % ({100 * stop['worst']:.1f} %)"]
            body.append(tuple(cells))
        needed = {solver: _needed(products) for solver, products in summary["needed"].items()}
        sentences.append(
            f"At λ = {damping:g}, {100 * curve['enough']:g} % of the predicted improvement takes {needed['kronecker']} "
            f"products with the Kronecker-factored preconditioner, {needed['diagonal']} with a diagonal one and "
            f"{needed['none']} with none (medians of {summary['rollouts']} rollouts)."
        )
    sentences.append(f"Setting the Kronecker factors up costs as much as {curve['setup']:.1f} products.")
    return markdown_table(header, body) + "\n\n" + " ".join(sentences)


def _needed(products: float) -> str:
    return f"more than {MAX_PRODUCTS}" if products > MAX_PRODUCTS else f"{products:g}"
