"""One voice for the mistakes of a command line."""

import argparse
import difflib
import importlib
from collections.abc import Iterable
from typing import Any, NoReturn


class UserError(Exception):
    """A mistake in what the user asked for: shown as one sentence, without a traceback."""

    exit_code = 2


class StoppedLearning(UserError):
    """A training that came to its end, and learned nothing more for the last while."""

    exit_code = 1


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose errors are :class:`UserError`, for one voice over all commands."""

    def error(self, message: str) -> NoReturn:
        """
        :param message: what argparse has to say
        :raises UserError: always
        """
        msg = f"{message} (see `{self.prog} --help`)"
        raise UserError(msg)


def suggest(kind: str, name: str, known: Iterable[str]) -> str:
    """
    :param kind: what the name should be, e.g. ``environment``
    :param name: what the user wrote
    :param known: the names that exist
    :return: a sentence that names the closest match, or all names where they are few
    """
    names = sorted(known)
    by_lower = {candidate.lower(): candidate for candidate in reversed(names)}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    sentence = f"unknown {kind} {name!r}"
    if close:
        sentence += f": did you mean {by_lower[close[0]]!r}?"
    if not close or len(names) <= 20:
        sentence += f" (known: {', '.join(names)})" if len(names) <= 40 else ""
    return sentence


def require(module: str, what: str, extra: str) -> Any:
    """
    Import a package of an optional extra.

    :param module: the module
    :param what: what needs it
    :param extra: the extra of this project that brings it
    :return: the module
    :raises UserError: if it is not installed
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        msg = f"{what} needs {module}: pip install 'sb3-trpo-fvp[{extra}]' ({error})"
        raise UserError(msg) from error
