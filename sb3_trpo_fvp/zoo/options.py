"""The options of RL-Zoo's commands that are looked at before RL-Zoo reads them: one parser for each kind of command."""

import argparse
from collections.abc import Sequence
from typing import Any

from sb3_trpo_fvp.zoo.command_line import ArgumentParser
from sb3_trpo_fvp.zoo.configs import ALGORITHM


def training_options(prog: str, args: Sequence[str]) -> argparse.Namespace:
    """
    Read the options of ``train`` and ``optimize``.

    :param prog: the command's name, for messages
    :param args: the command line
    :return: the options that matter here; RL-Zoo's own parser reads the others
    :raises UserError: for a value of the wrong kind
    """
    parser = _parser(prog)
    parser.add_argument("--gym-packages", nargs="+", default=[])
    parser.add_argument("-conf", "--conf-file")
    parser.add_argument("-params", "--hyperparams", nargs="+", default={}, action=_evaluated())
    parser.add_argument("--env-kwargs", nargs="+", action=_evaluated())
    parser.add_argument("--eval-env-kwargs", nargs="+", action=_evaluated())
    parser.add_argument("-i", "--trained-agent")
    parser.add_argument("-n", "--n-timesteps", type=int, default=-1)
    parser.add_argument("--eval-episodes", type=int, default=5)
    parser.add_argument("--n-eval-envs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=-1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("-f", "--log-folder", default="logs")
    parser.add_argument("-tb", "--tensorboard-log", default="")
    parser.add_argument("--optimization-log-path")
    parser.add_argument("--storage")
    parser.add_argument("--study-name")
    parser.add_argument("--trial-id", type=int)
    parser.add_argument("--track", action="store_true")
    return parser.parse_known_args(args)[0]


def without_options(args: Sequence[str], names: Sequence[str]) -> list[str]:
    """
    Take options of one value each out of a command line, in each of the ways in which they are written.

    :param args: the command line
    :param names: of the options, e.g. ``-n`` and ``--n-timesteps``
    :return: the rest
    """
    rest: list[str] = []
    position = 0
    while position < len(args):
        argument = args[position]
        if argument in names:
            position += 2
            continue
        if not argument.startswith(tuple(f"{name}=" for name in names if name.startswith("--"))):
            rest.append(argument)
        position += 1
    return rest


def agent_options(prog: str, args: Sequence[str]) -> argparse.Namespace:
    """
    Read the options of ``enjoy`` and ``record-video``.

    :param prog: the command's name, for messages
    :param args: the command line
    :return: the options that matter here
    :raises UserError: for a value of the wrong kind
    """
    parser = _parser(prog)
    parser.add_argument("-f", "--folder", default="logs")
    parser.add_argument("-n", "--n-timesteps", type=int, default=1000)
    parser.add_argument("--n-envs", type=int, default=1)
    parser.add_argument("--exp-id", type=int, default=0)
    parser.add_argument("--load-best", action="store_true")
    parser.add_argument("--load-checkpoint", type=int)
    parser.add_argument("--load-last-checkpoint", action="store_true")
    parser.add_argument("--no-render", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--reward-log", default="")
    parser.add_argument("-o", "--output-folder")
    parser.add_argument("--gym-packages", nargs="+", default=[])
    parser.add_argument("--env-kwargs", nargs="+", action=_evaluated())
    return parser.parse_known_args(args)[0]


def plot_options(prog: str, args: Sequence[str]) -> argparse.Namespace:
    """
    Read the options of ``all-plots``.

    :param prog: the command's name, for messages
    :param args: the command line
    :return: the options that matter here
    """
    parser = ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    parser.add_argument("-a", "--algos", nargs="+")
    parser.add_argument("-e", "--env", nargs="+")
    parser.add_argument("-f", "--exp-folders", nargs="+")
    parser.add_argument("-l", "--labels", nargs="+")
    parser.add_argument("-k", "--key", default="results")
    parser.add_argument("-o", "--output")
    return parser.parse_known_args(args)[0]


def _parser(prog: str) -> ArgumentParser:
    parser = ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    parser.add_argument("--algo", default=ALGORITHM)
    parser.add_argument("--env", default="CartPole-v1")
    return parser


def _evaluated() -> type[argparse.Action]:
    """Return RL-Zoo's way to read NAME:VALUE, with errors that name the pair."""
    from rl_zoo3.utils import StoreDict

    class Evaluated(StoreDict):  # type: ignore[misc]
        def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
            given: dict[str, Any] = {}
            for pair in values:
                name, colon, text = pair.partition(":")
                if not colon:
                    parser.error(f"{option_string} takes NAME:VALUE, got {pair!r}")
                try:
                    super().__call__(parser, namespace, [pair], option_string)
                except NameError:
                    parser.error(f"{option_string} {pair}: a string needs quotes of its own: {name}:\"'{text}'\"")
                except Exception as error:
                    parser.error(f"{option_string} {pair}: {text!r} is not Python ({error})")
                given |= getattr(namespace, self.dest)
            setattr(namespace, self.dest, given)

    return Evaluated
