"""
Speed of several ranks: ``python -m benchmarks.scaling``.

Measuring policy. The work per rank is the same however many there are (weak scaling): environments of its own, so many steps
of each, one torch thread. Runs of 1 and of 2 ranks follow each other in turns, each in processes of its own; a run's figure is
the median over its updates after the first, and the result is the ratio of steps per second, the median over the pairs with
its quartiles. Communication is what the ranks themselves log, and includes waiting for the slower one.

The model's link is fitted to the quickest all-reduces of 2 and 4 ranks that do nothing else on this machine; its work is the
CPU time of runs of one rank. Other processes disturb neither much. What it says of 8, 64 and 512 ranks is on paper: a
ring of 10 Gbit/s, the software's latency as measured here plus an assumed one of the network, one rank a link.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common.pairs import summarize
from benchmarks.common.provenance import describe_environment, load_average
from benchmarks.scaling.model import Link, Work, efficiency, fit_link, most_ranks, update_seconds
from benchmarks.speed.report import update_page

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "scaling" / "scaling.json"
PARTIAL = RESULTS.with_suffix(".partial")
PAGE = ROOT / "docs" / "distributed.md"
NETWORK_LATENCY = 20e-6
"""Assumed: seconds of one hop over a 10 Gbit/s network beside the software's."""
NETWORK_BANDWIDTH = 10e9 / 8
RANKS = (8, 64, 512)
CRITICS: dict[str, dict[str, Any]] = {"adam": {}, "gauss_newton": {"critic": "gauss_newton"}}
KNOBS: dict[str, dict[str, Any]] = {
    "as measured": {},
    "`cg_max_steps=5`": {"cg_max_steps": 5},
    "`fisher_sub_sampling_factor=4`": {"fisher_sub_sampling_factor": 4},
    "`n_critic_updates=3`": {"n_critic_updates": 3},
    '`critic="gauss_newton"`': {"critic": "gauss_newton"},
    "4 × `batch_size`": {"batch_size": 512},
    "4 × `n_steps` and `batch_size`": {"n_steps": 8192, "batch_size": 512},
}


def run_ranks(ranks: int, *arguments: str) -> Any:
    """
    Start ranks and wait for what rank 0 prints.

    :param ranks: how many
    :param arguments: command line of :mod:`benchmarks.scaling.rank`
    :return: the JSON
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [*launcher, "-m", "benchmarks.scaling.rank", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        done.check_returncode()
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_apart(processes: int, *arguments: str) -> list[Any]:
    """
    Start processes of one rank each at the same time: what the machine gives to work that does not communicate at all.

    :param processes: how many
    :param arguments: command line of :mod:`benchmarks.scaling.rank`
    :return: what each of them printed
    """
    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(lambda _: run_ranks(1, *arguments), range(processes)))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """
    Measure everything; what is done is kept, so that an interrupted measurement goes on.

    :param options: the command line
    :return: for JSON
    """
    learn = ["--env", options.env, "--n-envs", str(options.n_envs), "--updates", str(options.updates)]
    environment = describe_environment(options.note)
    results: dict[str, Any] = {
        "env": options.env,
        "n_envs": options.n_envs,
        "environment": environment,
        "loads": [],
        "runs": {critic: {"1": [], "2": [], "apart": []} for critic in CRITICS},
    }
    if PARTIAL.exists():
        done = json.loads(PARTIAL.read_text(encoding="utf-8"))
        results = done if done["environment"] == environment else results
    runs = results["runs"]
    for turn in range(len(results["loads"]), options.pairs):
        load = load_average()
        for critic, params in CRITICS.items():
            arguments, own = [*learn, "--params", json.dumps(params)], runs[critic]
            for ranks in (1, 2) if turn % 2 == 0 else (2, 1):
                own[str(ranks)].append(run_ranks(ranks, *arguments))
            own["apart"].append(run_apart(2, *arguments))
            one, two, apart = speed(own, "1")[-1], speed(own, "2")[-1], speed(own, "apart")[-1]
            print(
                f"{critic}, pair {turn + 1} of {options.pairs}: {two / one:.2f} × the steps per second of one rank; "
                f"{apart / one:.2f} × without communication",
                flush=True,
            )
        results["loads"].append(load)
        PARTIAL.parent.mkdir(parents=True, exist_ok=True)
        PARTIAL.write_text(json.dumps(results), encoding="utf-8")
    results["all_reduces"] = [sample for ranks in (2, 4) for sample in run_ranks(ranks, "--what", "all-reduce")]
    results["works"] = {}
    for name, params in KNOBS.items():
        alone = [run_ranks(1, *learn, "--params", json.dumps(params))] if params else runs["adam"]["1"]
        results["works"][name] = asdict(work_of(alone))
        print(f"one rank, {name}: done", flush=True)
    PARTIAL.unlink()
    return results


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
    table = "\n".join("| " + " | ".join(line) + " |" for line in (header, ("---",) * len(header), *rows))
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


def main() -> None:
    """Measure, write the results, and write what follows from them into the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--env", default="Humanoid-v5")
    parser.add_argument("--n-envs", type=int, default=2, help="environments of a rank")
    parser.add_argument("--updates", type=int, default=4, help="measured updates of a run")
    parser.add_argument("--pairs", type=int, default=7, help="runs of one rank and of two")
    parser.add_argument("--note", default="", help="what a reader must know about the machine")
    parser.add_argument("--report-only", action="store_true", help="write the page from the committed results")
    options = parser.parse_args()
    if not options.report_only:
        results = measure(options)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = report(json.loads(RESULTS.read_text(encoding="utf-8")))
    update_page(PAGE, {"scaling": text})
    print(text)


if __name__ == "__main__":
    main()
