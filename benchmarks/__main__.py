"""The list of studies: ``python -m benchmarks``. With a study's name and arguments, it is ``python -m benchmarks.STUDY``."""

import argparse
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.common.pages import markdown_table

HEADER = ("question", "command", "page", "cost")


@dataclass(frozen=True)
class Entry:
    """
    A study, as the list shows it.

    :param name: of its module in this package
    :param question: that it answers
    :param page: of the documentation, and the heading's anchor
    :param cost: what doing it anew takes
    """

    name: str
    question: str
    page: str
    cost: str


STUDIES = (
    Entry(
        "speed",
        "How much faster are products, updates and `learn()` than sb3-contrib's, and how much memory do they take?",
        "speed.md",
        "20 rows and 2 curves, 25 pairs each; `run --only ROW` does one",
    ),
    Entry(
        "learning",
        "Does it learn what sb3-contrib's TRPO and SB3's PPO learn, how soon, and which operator is best?",
        "benchmarks.md",
        "`benchmark`: 125 runs, 3 CPU hours; `defaults`: 200 runs, 1 CPU hour; `reference`: 107 million steps an algorithm",
    ),
    Entry(
        "tuning",
        "Where do the hyperparameters of `trpo_fvp.yml` and the constructor's defaults come from?",
        "benchmarks.md#how-the-hyperparameters-were-found",
        "212 runs, 42 million steps",
    ),
    Entry(
        "critic",
        "Does a Gauss-Newton critic fit better or faster than Adam?",
        "critic.md#what-is-measured",
        "24 runs, 5.5 million steps with both critics fitted",
    ),
    Entry(
        "scaling",
        "How much faster are several ranks, and what limits them?",
        "distributed.md#speed",
        "50 short runs of one rank or two, a quarter of an hour",
    ),
    Entry(
        "damping",
        "Which damping predicts best on states that it has not seen?",
        "sample-reuse.md#the-damping-out-of-sample",
        "7 runs of 30,000 to 50,000 steps, with 48 solves at every fifth update: minutes",
    ),
    Entry(
        "directions",
        "What do the three operators make of the same rollout?",
        "benchmarks.md",
        "5 runs of 300,000 steps with five solves at every tenth rollout",
    ),
    Entry(
        "naive_hessian",
        "What does it cost to form the Hessian instead of multiplying by it?",
        "benchmarks.md",
        "8 widths, minutes each at the widest",
    ),
    Entry(
        "joint_kl",
        "How far does an update really move the policy at the same `target_kl`?",
        "coming-from-sb3-contrib.md",
        "108 updates of 2048 steps, minutes",
    ),
)


def table() -> str:
    """
    Write the list for ``benchmarks/README.md``.

    :return: markdown
    """
    body = []
    for entry in STUDIES:
        page = f"[{entry.page.partition('#')[0]}](../docs/{entry.page})"
        body.append((entry.question, f"`python -m benchmarks.{entry.name}`", page, entry.cost))
    return markdown_table(HEADER, body)


def main(arguments: Sequence[str] | None = None) -> None:
    """
    List the studies, or do what is asked of one.

    :param arguments: the command line, that of the process if None
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Without arguments: list the studies.")
    parser.add_argument("study", nargs="?", choices=[entry.name for entry in STUDIES])
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="run | collect | report ...", help="see `STUDY --help`")
    options = parser.parse_args(given)
    if options.study:
        sys.argv = [f"benchmarks.{options.study}", *options.rest]
        runpy.run_module(f"benchmarks.{options.study}", run_name="__main__")
        return
    for entry in STUDIES:
        print(
            f"python -m benchmarks.{entry.name}\n    {entry.question}\n    docs/{entry.page}; {entry.cost}\n".replace("`", "")
        )
    print("Each has the verbs run, collect and report: see benchmarks/README.md.")


if __name__ == "__main__":
    main()
