"""What :mod:`benchmarks.scaling` measures, on the ranks of this machine."""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import benchmarks
from benchmarks.common.processes import run_module
from benchmarks.common.provenance import load_average, provenance
from benchmarks.scaling.report import speed, work_of

RESULTS = benchmarks.RESULTS / "scaling" / "scaling.json"
PARTIAL = RESULTS.with_suffix(".partial")
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
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    return run_module("benchmarks.scaling.rank", *arguments, launcher=launcher, variables={"PYTHONWARNINGS": "ignore"})


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
    environment = provenance(options.note)
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
