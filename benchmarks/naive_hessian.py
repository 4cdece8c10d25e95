"""
The Hessian, formed: ``python -m benchmarks.naive_hessian``.

"One could of course loop over each element of the vector": this does so, and compares it with the products that conjugate
gradients need. The KL's gradient is differentiated once for each of its P elements, each giving a row of the (P, P) Hessian,
and the direction is then a dense solve with H + λI; on the other side stand the operator, its preconditioner and the whole
solve as ``TRPO`` does it. HalfCheetah-v5, two hidden layers of growing width, N = 2048 real states, one thread.

Each side of each width has a process of its own. Time is that process's CPU time, memory the kernel's high-water mark above
what was there before. Where forming all rows would take longer than a few minutes, :data:`SAMPLED` rows are timed and the
rest is taken to cost the same; the matrix is still there in full, but is not solved with. Where it and the solve's own copy no
longer fit into the memory that is free, nothing is measured.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

import benchmarks
from benchmarks import FIGURES, ROOT
from benchmarks.common.figures import OURS, THEIRS, finish, panels
from benchmarks.common.pages import markdown_table, update_page
from benchmarks.common.processes import available_bytes, peak_bytes, run_module
from benchmarks.common.provenance import provenance
from benchmarks.common.study import Study, Verb
from benchmarks.common.workloads import Workload, cached_rollout
from sb3_trpo_fvp import TRPO, conjugate_gradient, fisher_operator
from sb3_trpo_fvp.trust_region import SurrogateProblem

RESULTS = benchmarks.RESULTS / "naive_hessian.json"
PAGE = ROOT / "docs" / "benchmarks.md"
FIGURE = FIGURES / "naive_hessian.png"
WIDTHS = (4, 8, 16, 32, 64, 128, 256, 512)
SIDES = ("naive", "products")
WORKER = "measure-one"
"""First argument of the processes that measure one side each."""
SAMPLED = 256
MOST_ROWS = 6000
DAMPING = 0.1


def naive(policy: Any, observations: th.Tensor, actions: th.Tensor, g: th.Tensor) -> Callable[[int], Any]:
    """
    Form the Hessian and solve with it.

    :param policy: at θ_k
    :param observations: (N, ...)
    :param actions: not needed
    :param g: right-hand side, (P,)
    :return: does it; of fewer rows than there are it takes the time, and takes the others to be as long, without the solve
    """
    parameters = fisher_operator(policy, observations[:1]).parameters

    def run(rows: int) -> Any:
        with th.no_grad():
            old = policy.get_distribution(observations).distribution
            old = type(old)(old.mean.clone(), old.stddev.clone())
        new = policy.get_distribution(observations).distribution
        kl = th.distributions.kl_divergence(old, new).sum(dim=1).mean()
        slope = th.cat([d.reshape(-1) for d in th.autograd.grad(kl, parameters, create_graph=True)])
        hessian = th.empty(len(slope), len(slope)).fill_(0.0)  # all of it is there
        start = time.process_time()
        for index in range(rows):
            row = th.autograd.grad(slope[index], parameters, retain_graph=True, materialize_grads=True)
            hessian[index] = th.cat([d.reshape(-1) for d in row])
        if rows < len(slope):
            return (time.process_time() - start) * (len(slope) - rows) / rows
        hessian.diagonal().add_(DAMPING)
        return th.linalg.solve(hessian, g)

    return run


def products(policy: Any, observations: th.Tensor, actions: th.Tensor, g: th.Tensor) -> Callable[[int], object]:
    """
    Solve with products alone, as ``TRPO`` does by default.

    :param policy: at θ_k
    :param observations: (N, ...)
    :param actions: for the preconditioner
    :param g: right-hand side, (P,)
    :return: does it
    """

    def run(rows: int) -> object:
        operator = fisher_operator(policy, observations, actions)
        return conjugate_gradient(
            lambda v: operator @ v + DAMPING * v,
            g,
            max_steps=15,
            rtol=0.15,
            preconditioner=operator.preconditioner(DAMPING),
        )

    return run


def measure(side: str, width: int, folder: Path) -> dict[str, Any]:
    """
    Measure one side, in this process.

    :param side: of :data:`SIDES`
    :param width: of both hidden layers
    :param folder: where the states are kept
    :return: P, seconds, bytes, and the rows that were formed; without the last three where the matrix does not fit
    """
    th.set_num_threads(1)
    states = Workload("HalfCheetah-v5", updates_before=0)
    rollout = cached_rollout(states, folder)
    model = Workload("HalfCheetah-v5", net_arch=(width, width)).build(TRPO)
    observations, actions, advantages = (
        th.as_tensor(model.rollout_buffer.swap_and_flatten(rollout.buffer[name]))
        for name in ("observations", "actions", "advantages")
    )
    operator = fisher_operator(model.policy, observations)
    g = SurrogateProblem(operator.actor, actions, advantages.flatten()).gradient()
    size = operator.shape[0]
    del operator
    found: dict[str, Any] = {"width": width, "P": size}
    # The matrix, and one more of its size for the solve.
    if side == "naive" and 2 * 4 * size**2 > available_bytes():
        return {**found, "needs": 4 * size**2}
    run = {"naive": naive, "products": products}[side](model.policy, observations, actions, g)
    rows = size if size <= MOST_ROWS else SAMPLED
    run(1)
    run_seconds = [0.0]

    def timed() -> None:
        start = time.process_time()
        rest = run(rows)
        run_seconds[0] = time.process_time() - start + (rest if rows < size and side == "naive" else 0.0)

    memory = peak_bytes(timed)
    seconds = run_seconds[0]
    if side == "products":  # so short that one says little
        again = []
        for _ in range(10):
            timed()
            again.append(run_seconds[0])
        seconds = float(np.median(again))
    return {**found, "seconds": float(f"{seconds:.4g}"), "bytes": memory, "rows": rows if side == "naive" else 0}


def table(results: dict[str, Any]) -> str:
    """
    Tabulate.

    :param results: as committed
    :return: markdown
    """
    header = ("hidden layers", "P", "time, Hessian / products", "memory of the Hessian", "of the products")
    body = []
    for left, right in zip(results["naive"], results["products"], strict=True):
        size = f"{left['width']}-{left['width']}", f"{left['P']:,}"
        ours = _bytes(right["bytes"])
        if "seconds" not in left:
            cells = ("–", f"does not fit: {_bytes(left['needs'])} and as much for the solve", ours)
        else:
            whole = left["rows"] == left["P"]
            memory = ("" if whole else "more than ") + _bytes(left["bytes"])
            cells = (f"{left['seconds'] / right['seconds']:,.0f}{'' if whole else ' (estimated)'}", memory, ours)
        body.append((*size, *cells))
    return markdown_table(header, body)


def _bytes(value: float) -> str:
    return f"{value / 2**30:,.1f} GiB" if value >= 2**30 else f"{value / 2**20:,.0f} MiB"


def draw(results: dict[str, Any], path: Path = FIGURE) -> None:
    """
    Draw time and memory against P.

    :param results: as committed
    :param path: the file to write
    """
    figure, grid = panels(1, 2, (9.2, 3.6))
    time_axes, memory_axes = grid[0]
    unit = results["products"][0]["seconds"]
    for side, color, label in zip(SIDES, (THEIRS, OURS), ("Hessian formed row by row", "products"), strict=True):
        done = [row for row in results[side] if "seconds" in row]
        whole = [row for row in done if side == "products" or row["rows"] == row["P"]]
        for axes, key, scale in zip(grid[0], ("seconds", "bytes"), (unit, 2**20), strict=True):
            axes.plot([row["P"] for row in done], [row[key] / scale for row in done], "--", color=color, lw=1)
            axes.plot([row["P"] for row in whole], [row[key] / scale for row in whole], "-o", color=color, ms=4, label=label)
            rest = [row for row in done if row not in whole]
            axes.plot([row["P"] for row in rest], [row[key] / scale for row in rest], "o", color=color, ms=5, mfc="white")
    for row in (row for row in results["naive"] if "seconds" not in row):
        memory_axes.plot([row["P"]], [row["needs"] / 2**20], "x", color=THEIRS, ms=8, mew=2)
        memory_axes.annotate(" does not fit", (row["P"], row["needs"] / 2**20), ha="right", va="bottom", fontsize=8)
    time_axes.set(ylabel="time, smallest solve by products = 1")
    memory_axes.set(ylabel="peak memory, MiB")
    for axes in grid[0]:
        axes.set(xscale="log", yscale="log", xlabel="parameters of the actor, P")
    time_axes.legend(frameon=False)
    finish(figure, path, "one direction (H + λI)s = g; hollow: from a sample of the rows")


def _run(options: argparse.Namespace) -> None:
    results: dict[str, Any] = {"environment": provenance(), **{side: [] for side in SIDES}}
    with tempfile.TemporaryDirectory() as folder:
        for width in options.widths:
            for side in SIDES:
                results[side].append(run_module("benchmarks.naive_hessian", WORKER, side, width, folder))
                print(side, results[side][-1], flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    _report(options)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS), help="of both hidden layers")


def _report(options: argparse.Namespace) -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = table(results)
    update_page(PAGE, {"naive": text})
    draw(results)
    print(text)


STUDY = Study(
    "naive_hessian",
    run=Verb("measure, then report", _run, _run_arguments),
    report=Verb("write the table and the figure from the committed results", _report),
    default="run",
)

if __name__ == "__main__":
    if sys.argv[1:2] == [WORKER]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
    else:
        STUDY.main()
