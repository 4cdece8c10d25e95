"""The tables of :mod:`benchmarks.learning`, from whatever runs there are; statistics by rliable (Agarwal et al., 2021)."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

from benchmarks.learning.runs import BASELINE, LIKE_FOR_LIKE, NAMES, OWN, ROOT, Run
from benchmarks.speed.report import markdown_table, update_page
from sb3_trpo_fvp.zoo.compare.summary import bootstrap
from sb3_trpo_fvp.zoo.sweeps.sweep import Sweep

PAGES = (ROOT / "docs" / "benchmarks.md", ROOT / "README.md")
ALIKE = tuple(name for name in NAMES if LIKE_FOR_LIKE in name)
REPETITIONS = 2000

Pair: TypeAlias = dict[str, dict[tuple[str, int], Run]]
"""Runs by algorithm, then by environment and seed: the same environments and seeds of each."""
Interval: TypeAlias = tuple[float, float, float]
"""Estimate, lower and upper end of its 95 % interval."""
References: TypeAlias = Mapping[str, Mapping[str, float]]


def matched(runs: Sequence[Run], variants: Sequence[str]) -> Pair:
    """
    Keep the runs whose environment and seed every one of some algorithms has done.

    :param runs: any
    :param variants: the algorithms
    :return: by algorithm, then by environment and seed
    """
    done = {variant: {(run.env, run.seed): run for run in runs if run.variant == variant} for variant in variants}
    common = set.intersection(*(set(of) for of in done.values()))
    return {variant: {key: of[key] for key in sorted(common)} for variant, of in done.items()}


def environments(pair: Pair) -> list[str]:
    """
    List the environments.

    :param pair: runs
    :return: by name
    """
    return sorted({env for of in pair.values() for env, _ in of})


def of_env(of: Mapping[tuple[str, int], Run], env: str) -> list[Run]:
    """
    Pick an environment's runs.

    :param of: one algorithm's
    :param env: the environment
    :return: by seed
    """
    return [run for (which, _), run in sorted(of.items()) if which == env]


def scores(of: Mapping[tuple[str, int], Run], references: References) -> np.ndarray:
    """
    Normalise the returns, smoothed over evaluations as the final one is.

    :param of: one algorithm's runs by environment and seed
    :param references: random and reference return of each environment
    :return: (seeds, environments, evaluations), of as many seeds as every environment has
    """
    columns = []
    for env in sorted({env for env, _ in of}):
        low, high = references[env]["random"], references[env]["reference"]
        columns.append([(run.smoothed - low) / (high - low) for run in of_env(of, env)])
    seeds = min(map(len, columns))
    return np.array([column[:seeds] for column in columns]).swapaxes(0, 1)


@contextmanager
def reproducible() -> Iterator[None]:
    """Let rliable draw the same every time: it draws from NumPy's global generator, whatever it is given."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def interval(metric: Callable[..., float], *matrices: np.ndarray) -> Interval:
    """
    Estimate an aggregate with its stratified bootstrap interval.

    :param metric: of as many matrices as are given
    :param matrices: scores, (seeds, environments)
    :return: the estimate and its 95 % interval
    """
    from rliable import library

    data = matrices[0] if len(matrices) == 1 else matrices
    with reproducible():
        points, spread = library.get_interval_estimates(
            {"x": data}, lambda *drawn: np.array([metric(*drawn)]), reps=REPETITIONS
        )
    return float(points["x"][0]), float(spread["x"][0, 0]), float(spread["x"][1, 0])


def iqm(matrix: np.ndarray) -> Interval:
    """
    Interquartile mean.

    :param matrix: scores, (seeds, environments)
    :return: the estimate and its interval
    """
    from rliable import metrics

    return interval(metrics.aggregate_iqm, matrix)


def improvement(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """
    Probability that a run of ours ends above one of theirs.

    :param ours: scores, (seeds, environments)
    :param theirs: likewise
    :return: the estimate and its interval
    """
    from rliable import metrics

    return interval(metrics.probability_of_improvement, ours, theirs)


def reaching(theirs: Sequence[Run], ours: Sequence[Run]) -> tuple[float, float] | None:
    """
    Compare the CPU time of learning after which the mean over seeds first is at the final return of theirs.

    :param theirs: runs of one environment
    :param ours: likewise
    :return: the part of their time that ours takes, infinite if it never gets there, and the same of the steps; None without
        times, or if they are of several machines
    """
    level = statistics.mean(run.final for run in theirs)
    if len({run.machine for run in (*theirs, *ours)}) > 1:
        return None
    found = []
    for runs in (theirs, ours):
        timed = [run.seconds for run in runs if not np.isnan(run.seconds).any()]
        if not timed:
            return None
        means = np.mean([run.smoothed for run in runs], axis=0)
        above = np.nonzero(means >= level - 1e-9)[0]
        seconds = np.mean(timed, axis=0)
        found.append((seconds[above[0]], runs[0].steps[above[0]]) if len(above) else (math.inf, math.inf))
    return found[1][0] / found[0][0], found[1][1] / found[0][1]


def difference(theirs: np.ndarray, ours: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Estimate by how much returns differ; the seeds of both are drawn independently, as they share nothing.

    :param theirs: returns, (seeds, ...)
    :param ours: likewise
    :return: ours less theirs, with the ends of its 95 % percentile-bootstrap interval, each of shape (...)
    """
    generator = np.random.default_rng(0)
    drawn = [of[generator.integers(len(of), size=(REPETITIONS, len(of)))].mean(axis=1) for of in (theirs, ours)]
    low, high = np.percentile(drawn[1] - drawn[0], [2.5, 97.5], axis=0)
    return ours.mean(axis=0) - theirs.mean(axis=0), low, high


def _gap(theirs: Sequence[Run], ours: Sequence[Run]) -> str:
    finals = (np.array([run.final for run in of]) for of in (theirs, ours))
    return write([float(number) for number in difference(*finals)], 0, len(ours))


def agreement(pair: Pair, variant: str) -> str:
    """
    Count where along the learning curves, smoothed as the final return is, the difference's interval contains 0.

    :param pair: runs of the baseline and of the algorithm
    :param variant: the algorithm
    :return: a sentence
    """
    agree = points = 0
    for env in environments(pair):
        curves = (np.array([run.smoothed for run in of_env(pair[which], env)]) for which in (BASELINE, variant))
        _, low, high = difference(*curves)
        agree += int(((low <= 0.0) & (high >= 0.0)).sum())
        points += len(low)
    return f"Along the curves, the 95 % interval of the difference contains 0 at {agree} of {points} evaluations."


def write(value: Sequence[Any], digits: int, count: int = 2) -> str:
    """
    Write an estimate, with its interval if it has one.

    :param value: estimate, lower and upper end
    :param digits: after the point
    :param count: of what it is the mean of; one has no interval
    :return: such as ``0.52 [0.41, 0.60]``
    """
    middle, low, high = value
    return f"{middle:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if count > 1 else "")


def _final(runs: Sequence[Run]) -> str:
    return write(bootstrap(np.array([run.final for run in runs])), 0, len(runs))


def _cpu_ratio(theirs: Sequence[Run], ours: Sequence[Run]) -> str:
    """Median over seeds of the CPU time of learning, theirs over ours, of pairs that ran on the same processor."""
    ratios = [a.seconds[-1] / b.seconds[-1] for a, b in zip(theirs, ours, strict=True) if a.machine == b.machine]
    ratios = [ratio for ratio in ratios if not math.isnan(ratio)]
    return f"{statistics.median(ratios):.2f}" if ratios else "–"


def comparison(runs: Sequence[Run], references: References, variant: str) -> str:
    """
    Compare an algorithm with the baseline, on the environments and seeds that both have done.

    :param runs: any
    :param references: random and reference return of each environment
    :param variant: the algorithm
    :return: markdown
    """
    pair = matched(runs, (BASELINE, variant))
    if not pair[variant]:
        return f"### {NAMES[variant]} against sb3-contrib\n\n`{variant}`: no run yet."
    body = []
    for env in environments(pair):
        theirs, ours = of_env(pair[BASELINE], env), of_env(pair[variant], env)
        kl = " / ".join(f"{np.mean([run.kl.mean() for run in of]):.4f}" for of in (theirs, ours))
        body.append((env, str(len(ours)), _final(theirs), _final(ours), _gap(theirs, ours), _cpu_ratio(theirs, ours), kl))
    lines = [
        f"### {NAMES[variant]} against sb3-contrib",
        "",
        f"`{variant}`; {len(pair[variant])} runs of each.",
        "",
        markdown_table(
            (
                "environment",
                "seeds",
                "sb3-contrib",
                "this",
                "difference",
                "CPU time, sb3-contrib / this",
                "joint KL of an update",
            ),
            body,
        ),
        "",
        aggregate_sentence(pair, references, variant),
    ]
    if variant in ALIKE:
        lines += ["", agreement(pair, variant)]
    return "\n".join(lines)


def aggregate_sentence(pair: Pair, references: References, variant: str) -> str:
    """
    Say what all environments together show.

    :param pair: runs of the baseline and of the algorithm
    :param references: random and reference return of each environment
    :param variant: the algorithm
    :return: a sentence or two
    """
    ours, theirs = (scores(pair[which], references)[:, :, -1] for which in (variant, BASELINE))
    if len(ours) < 2:
        return "Too few seeds for an interval over environments."
    return (
        f"Interquartile mean of the normalised final return, {ours.shape[1]} environments and {len(ours)} seeds: sb3-contrib "
        f"{write(iqm(theirs), 3)}, this {write(iqm(ours), 3)}. Probability that a run of this one ends above one of "
        f"sb3-contrib's: {write(improvement(ours, theirs), 2)}."
    )


def time_table(runs: Sequence[Run], variant: str = OWN) -> str:
    """
    Tabulate how soon the algorithm is where the baseline ends.

    :param runs: any
    :param variant: the algorithm
    :return: markdown
    """
    pair = matched(runs, (BASELINE, variant))
    body = []
    times = []
    for env in environments(pair):
        theirs, ours = of_env(pair[BASELINE], env), of_env(pair[variant], env)
        found = reaching(theirs, ours)
        if found is None:
            continue
        times.append(found[0])
        level = statistics.mean(run.final for run in theirs)
        cells = [f"{value:.2f}" if math.isfinite(value) else "not reached" for value in found]
        body.append((env, f"{level:.0f}", *cells))
    if not body:
        return "No pair of runs has times yet."
    table = markdown_table(
        ("environment", "return to reach", "CPU time, this / sb3-contrib", "steps, this / sb3-contrib"), body
    )
    middle = statistics.median(times)
    median = f"{middle:.2f}" if math.isfinite(middle) else "not reached"
    return f"{table}\n\nMedian over environments of the ratio of CPU times: {median}."


def operator_table(runs: Sequence[Run]) -> str:
    """
    Compare the operators with each other, like for like.

    :param runs: any
    :return: markdown
    """
    present = [variant for variant in ALIKE if any(run.variant == variant for run in runs)]
    pair = matched(runs, present) if present else {}
    if not present or not pair[present[0]]:
        return "No environment and seed has been done with every operator yet."
    body = []
    for env in environments(pair):
        first = of_env(pair[present[0]], env)
        for variant in present:
            of = of_env(pair[variant], env)
            steps = statistics.mean(run.means["trust_region/cg_steps"] for run in of)
            body.append(
                (env, NAMES[variant].partition(",")[0], str(len(of)), _final(of), f"{steps:.1f}", _cpu_ratio(of, first))
            )
    named = NAMES[present[0]].partition(",")[0]
    return markdown_table(("environment", "operator", "seeds", "return", "CG steps", f"CPU time / that of {named}"), body)


def kl_table(runs: Sequence[Run]) -> str:
    """
    Tabulate the joint KL that an update takes, of the baseline and of this project's own setting.

    :param runs: any
    :return: markdown
    """
    body = []
    for env in sorted({run.env for run in runs}):
        cells = []
        for variant in (BASELINE, OWN):
            of = [run for run in runs if (run.env, run.variant) == (env, variant)]
            if not of:
                cells += ["–"] * 3
                continue
            kls = np.concatenate([run.kl for run in of])
            cells += [
                f"{of[0].target_kl:g}",
                f"{kls.mean():.4f} ({kls.max():.4f})",
                f"{(kls > of[0].target_kl * 1.001).mean():.0%}",
            ]
        body.append((env, *cells))
    header = ["environment"]
    for name in ("sb3-contrib", "this"):
        header += [f"{name}: `target_kl`", "joint KL, mean (largest)", "updates above it"]
    return markdown_table(header, body)


def defaults_table(runs: Sequence[Run]) -> str:
    """
    Tabulate the import swap: both constructors' defaults.

    :param runs: of ``sweeps/defaults.yaml``
    :return: markdown
    """
    pair = matched(runs, ("trpo", "trpo_fvp"))
    body = []
    for env in environments(pair):
        theirs, ours = (of_env(pair[variant], env) for variant in ("trpo", "trpo_fvp"))
        whole = [write(bootstrap(np.array([run.returns.mean() for run in of])), 0, len(of)) for of in (theirs, ours)]
        body.append((env, str(len(ours)), _final(theirs), _final(ours), _gap(theirs, ours), *whole, _cpu_ratio(theirs, ours)))
    header = (
        "environment",
        "seeds",
        "sb3-contrib",
        "this",
        "difference",
        "whole run, sb3-contrib",
        "this",
        "CPU time, sb3-contrib / this",
    )
    return markdown_table(header, body) if body else "No run yet."


def summary(runs: Sequence[Run], references: References) -> str:
    """
    Write the README's table: each at its best.

    :param runs: any
    :param references: random and reference return of each environment
    :return: markdown
    """
    pair = matched(runs, (BASELINE, OWN))
    if not pair[OWN]:
        return "No run yet."
    body = []
    for env in environments(pair):
        theirs, ours = of_env(pair[BASELINE], env), of_env(pair[OWN], env)
        found = reaching(theirs, ours)
        time = "–" if found is None else f"{found[0]:.2f}" if math.isfinite(found[0]) else "not reached"
        body.append((env, _final(theirs), _final(ours), _cpu_ratio(theirs, ours), time))
    header = (
        "environment",
        "sb3-contrib",
        "this",
        "CPU time, sb3-contrib / this",
        "time to sb3-contrib's final return, this / sb3-contrib",
    )
    return "\n".join([markdown_table(header, body), "", aggregate_sentence(pair, references, OWN)])


def parts(runs: Sequence[Run], defaults: Sequence[Run], references: References) -> dict[str, str]:
    """
    Write everything that the pages show.

    :param runs: of the benchmark
    :param defaults: of the import swap
    :param references: random and reference return of each environment
    :return: text by the name of its markers
    """
    machines = sorted({run.machine for run in runs})
    return {
        "learning-like": "\n\n".join(comparison(runs, references, variant) for variant in ALIKE[:2]),
        "learning-own": comparison(runs, references, OWN),
        "learning-time": time_table(runs),
        "learning-operators": operator_table(runs),
        "learning-kl": kl_table(runs),
        "learning-machine": _progress(runs, machines),
        "learning-defaults": defaults_table(defaults),
        "learning-summary": summary(runs, references),
    }


def _progress(runs: Sequence[Run], machines: Sequence[str]) -> str:
    wanted = len(Sweep.load("benchmark").runs())
    state = "All" if len(runs) == wanted else f"**The study is unfinished:** {len(runs)} of"
    where = " and ".join(machines)
    return f"{state} {wanted} runs are done, a thread each, on {where}; only what both sides have done is compared."


def publish(runs: Sequence[Run], defaults: Sequence[Run], references: References) -> dict[str, str]:
    """
    Bring the pages up to date.

    :param runs: of the benchmark
    :param defaults: of the import swap
    :param references: random and reference return of each environment
    :return: what was written, by the name of its markers
    """
    found = parts(runs, defaults, references)
    for page in PAGES:
        update_page(page, found)
    return found
