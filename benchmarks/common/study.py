"""The command line that every study has: ``python -m benchmarks.STUDY run``, ``collect`` and ``report``."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass


def _none(parser: argparse.ArgumentParser) -> None:
    """Add no options."""


@dataclass(frozen=True)
class Verb:
    """
    One of the things that can be done with a study.

    :param does: what, for the help
    :param do: does it, given the command line
    :param arguments: adds its options to a parser
    """

    does: str
    do: Callable[[argparse.Namespace], None]
    arguments: Callable[[argparse.ArgumentParser], None] = _none


@dataclass(frozen=True)
class Study:
    """
    A study's command line.

    :param name: of its module in :mod:`benchmarks`
    :param run: measures or trains what is missing
    :param report: writes pages and figures from the committed results
    :param collect: takes finished runs out of a sweep's folder into the committed results; None if ``run`` writes these itself
    :param default: the verb where none is given
    """

    name: str
    run: Verb
    report: Verb
    collect: Verb | None = None
    default: str = "report"

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """
        Do what a command line says.

        :param arguments: the command line, that of the process if None
        """
        given = list(sys.argv[1:] if arguments is None else arguments)
        verbs = {"run": self.run, "collect": self.collect, "report": self.report}
        if not given or given[0] not in (*verbs, "-h", "--help"):
            given.insert(0, self.default)
        parser = argparse.ArgumentParser(
            prog=f"python -m benchmarks.{self.name}", description=f"Without a verb: {self.default}. See benchmarks/README.md."
        )
        parsers = parser.add_subparsers(dest="verb", required=True)
        for name, verb in verbs.items():
            does = verb.does if verb else "nothing: `run` writes the results of this study itself"
            own = parsers.add_parser(name, help=does, description=does)
            if verb:
                verb.arguments(own)
        options = parser.parse_args(given)
        verb = verbs[options.verb]
        if verb is None:
            parser.error("`run` writes the results of this study itself: there is nothing to collect")
        verb.do(options)
