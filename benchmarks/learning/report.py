"""The tables of the sweep ``benchmark``, from whatever runs there are."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.common.pages import markdown_table
from benchmarks.common.references import References
from benchmarks.common.statistics import difference, improvement, iqm, write
from benchmarks.learning.compare import Pair, agreement, cpu_ratio, environments, matched, of_env, reaching, scores
from benchmarks.learning.runs import ALIKE, BASELINE, NAMES, OWN, LearningRun
from sb3_trpo_fvp.zoo.compare.summary import WITHIN, bootstrap
from sb3_trpo_fvp.zoo.sweeps.sweep import Sweep


def _gap(theirs: Sequence[LearningRun], ours: Sequence[LearningRun]) -> str:
    finals = (np.array([run.final for run in of]) for of in (theirs, ours))
    return write([float(number) for number in difference(*finals)], 0, len(ours))


def _final(runs: Sequence[LearningRun]) -> str:
    return write(bootstrap(np.array([run.final for run in runs])), 0, len(runs))


def comparison(runs: Sequence[LearningRun], references: References, variant: str) -> str:
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
        body.append((env, str(len(ours)), _final(theirs), _final(ours), _gap(theirs, ours), cpu_ratio(theirs, ours), kl))
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


def time_table(runs: Sequence[LearningRun], variant: str = OWN) -> str:
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


def operator_table(runs: Sequence[LearningRun]) -> str:
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
                (env, NAMES[variant].partition(",")[0], str(len(of)), _final(of), f"{steps:.1f}", cpu_ratio(of, first))
            )
    named = NAMES[present[0]].partition(",")[0]
    return markdown_table(("environment", "operator", "seeds", "return", "CG steps", f"CPU time / that of {named}"), body)


def kl_table(runs: Sequence[LearningRun]) -> str:
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
                f"{(kls > of[0].target_kl * WITHIN).mean():.0%}",
            ]
        body.append((env, *cells))
    header = ["environment"]
    for name in ("sb3-contrib", "this"):
        header += [f"{name}: `target_kl`", "joint KL, mean (largest)", "updates above it"]
    return markdown_table(header, body)


def summary(runs: Sequence[LearningRun], references: References) -> str:
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
        body.append((env, _final(theirs), _final(ours), cpu_ratio(theirs, ours), time))
    header = (
        "environment",
        "sb3-contrib",
        "this",
        "CPU time, sb3-contrib / this",
        "time to sb3-contrib's final return, this / sb3-contrib",
    )
    return "\n".join([markdown_table(header, body), "", aggregate_sentence(pair, references, OWN)])


def parts(runs: Sequence[LearningRun], references: References) -> dict[str, str]:
    """
    Write everything that the pages show of the benchmark.

    :param runs: of the benchmark
    :param references: random and reference return of each environment
    :return: text by the name of its markers
    """
    return {
        "learning-like": "\n\n".join(comparison(runs, references, variant) for variant in ALIKE[:2]),
        "learning-own": comparison(runs, references, OWN),
        "learning-time": time_table(runs),
        "learning-operators": operator_table(runs),
        "learning-kl": kl_table(runs),
        "learning-machine": _progress(runs),
        "learning-summary": summary(runs, references),
    }


def _progress(runs: Sequence[LearningRun]) -> str:
    wanted = len(Sweep.load("benchmark").runs())
    state = "All" if len(runs) == wanted else f"**The study is unfinished:** {len(runs)} of"
    where = " and ".join(sorted({run.machine for run in runs}))
    return f"{state} {wanted} runs are done, a thread each, on {where}; only what both sides have done is compared."
