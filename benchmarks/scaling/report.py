"""The section of the page on distribution that :mod:`benchmarks.scaling` writes."""

import statistics
from typing import Any

from benchmarks.common.pages import markdown_table
from benchmarks.common.pairs import summarize
from benchmarks.scaling.model import Link, Work, efficiency, fit_link, most_ranks, update_seconds

NETWORK_LATENCY = 20e-6
"""Assumed: seconds of one hop over a 10 Gbit/s network beside the software's."""
NETWORK_BANDWIDTH = 10e9 / 8
RANKS = (8, 64, 512)


def work_of(runs: list[dict[str, Any]]) -> Work:
    """
    Summarize runs of one rank.

    :param runs: what :func:`benchmarks.scaling.rank.learn` returned
    :return: their medians
    """

    def median(key: str) -> float:
        return statistics.median(run[key] for run in runs)

    return Work(
        states=int(median("states")),
        rollout=median("rollout_cpu"),
        rollout_std=median("rollout_cpu_std"),
        train=median("update_cpu") - median("rollout_cpu"),
        messages=median("messages"),
        size=median("megabytes") * 1e6,
        fit=median("fit"),
        fit_messages=median("fit_messages"),
        fit_size=median("fit_megabytes") * 1e6,
        gathered=median("gathered_megabytes") * 1e6,
    )


def speed(runs: dict[str, Any], what: str) -> list[float]:
    """
    Read off the steps per second, pair by pair.

    :param runs: of one setting, as committed
    :param what: ``"1"`` or ``"2"`` ranks, or the two processes ``"apart"``
    :return: one number for each pair
    """
    return [sum(one["steps_per_second"] for one in (run if isinstance(run, list) else [run])) for run in runs[what]]


def summary(critic: str, runs: dict[str, Any]) -> str:
    """
    Say how two ranks do.

    :param critic: of the setting
    :param runs: of it, as committed
    :return: an item of a list, markdown
    """
    one, two, apart = speed(runs, "1"), speed(runs, "2"), speed(runs, "apart")
    ratio, ceiling, reached = summarize(two, one), summarize(apart, one), summarize(two, apart)

    def share(key: str) -> float:
        return statistics.median(run[key] / run["update"] for run in runs["2"])

    messages, megabytes = (statistics.median(run[key] for run in runs["2"]) for key in ("messages", "megabytes"))
    quartiles = f"quartiles {ratio.lower:.2f} to {ratio.upper:.2f}, {ratio.pairs} pairs"
    without = f"{ceiling.median:.2f} × ({ceiling.lower:.2f} to {ceiling.upper:.2f})"
    part = f"{reached.median:.0%} of that ({reached.lower:.0%} to {reached.upper:.0%})"
    return f"""- **`critic="{critic}"`: two ranks make {ratio.median:.2f} × the environment steps per second of one**
  ({quartiles}). Two processes that do not communicate at all make {without};
  the ranks reach {part}. An update exchanges {messages:.0f} messages and {megabytes:.1f} MB;
  communication, waiting for the other rank included, is {share("communication"):.0%} of its time, the
  rollout {share("rollout"):.0%}."""


def report(results: dict[str, Any]) -> str:
    """
    Write the section of the page.

    :param results: as committed
    :return: markdown
    """
    environment = results["environment"]
    parameters = results["runs"]["adam"]["1"][0]["parameters"]
    measured = fit_link([(ranks, size, seconds) for ranks, size, seconds in results["all_reduces"]])
    link = Link(measured.latency + NETWORK_LATENCY, min(measured.bandwidth, NETWORK_BANDWIDTH))
    base = Work(**results["works"]["as measured"])
    rows = []
    for name, fields in results["works"].items():
        work = Work(**fields)
        cells = [f"{efficiency(work, link, ranks):.0%}" for ranks in RANKS]
        few, many = work.on(2), work.on(RANKS[-1])
        messages = f"{few.messages:.0f} / {many.messages:.0f}"
        rows.append((name, messages, f"{few.size / 1e6:.1f} / {many.size / 1e6:.1f}", *cells, f"{most_ranks(work, link):,}"))
    header = ("setting", "messages, 2 / many ranks", "MB", *(f"{ranks} ranks" for ranks in RANKS), "ranks at 50 %")
    table = markdown_table(header, rows)
    loads = [load for load in results["loads"] if load is not None]
    busy = f", load average {min(loads):.1f} to {max(loads):.1f}" if loads else ""
    note = f"**{environment['note']}**" if environment["note"] else ""
    summaries = "\n".join(summary(critic, runs) for critic, runs in results["runs"].items())
    in_rollouts = base.rollout / update_seconds(base, link, 1)
    return f"""
{results["env"]}, {results["n_envs"]} environments and {base.states} steps a rank and update, {parameters:,}
parameters, one thread a rank; {environment["cpu"]}, {environment["cpu_count"]} cores{busy}, commit {environment["commit"]}.
{note}

{summaries}
- With Adam, one rank spends {in_rollouts:.0%} of its CPU time in rollouts, whose length varies by
  {base.rollout_std / base.rollout:.1%} (standard deviation) between updates.
- The model says {2 * efficiency(base, measured, 2):.2f} × for two such ranks on this machine.

What the model says of a network of 10 Gbit/s: which part of the ideal speed is reached, and how many ranks still reach half
of it. A hop takes {link.latency * 1e6:.0f} µs, {measured.latency * 1e6:.0f} as measured here and
{NETWORK_LATENCY * 1e6:.0f} assumed for the network; a link carries {link.bandwidth * 8 / 1e9:.1f} Gbit/s, the lesser of the
network's and what was measured here.

{table}
"""
