"""The ``sb3-trpo-fvp`` command: RL-Zoo with this project's TRPO, sweeps, and the comparison with sb3-contrib."""

import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sb3_trpo_fvp import __version__
from sb3_trpo_fvp.distributed.launch import ranks_started, torchrun
from sb3_trpo_fvp.zoo.checks import check_algorithm, check_environment, check_trained, checked_training_arguments, parse_known
from sb3_trpo_fvp.zoo.command_line import UserError, require, suggest
from sb3_trpo_fvp.zoo.configs import ALGORITHM, BASELINE, config_folder
from sb3_trpo_fvp.zoo.ranks import arguments_of_rank

PROGRAM = "sb3-trpo-fvp"


@contextmanager
def _command_line(name: str, args: Sequence[str]) -> Iterator[None]:
    """RL-Zoo's scripts read ``sys.argv``: give them theirs for the while."""
    original = sys.argv
    sys.argv = [f"{PROGRAM} {name}", *args]
    try:
        yield
    finally:
        sys.argv = original


def _register(progress_file: Path | None = None) -> None:
    require("rl_zoo3", "this command", "zoo")
    from sb3_trpo_fvp.zoo.experiment_manager import register

    register(progress_file)


def _asks_help(args: Sequence[str]) -> bool:
    return any(argument in ("-h", "--help") for argument in args)


def _option(args: Sequence[str], *names: str) -> str | None:
    """The value of an option, wherever argparse would find it."""
    for position, argument in enumerate(args):
        for name in names:
            if argument == name and position + 1 < len(args):
                return args[position + 1]
            if name.startswith("--") and argument.startswith(f"{name}="):
                return argument.partition("=")[2]
    return None


def train(args: Sequence[str]) -> int:
    """Train an agent (RL-Zoo's train: every option of it works)."""
    return _train("train", args)


def _train(name: str, args: Sequence[str], progress_file: Path | None = None) -> int:
    _register(progress_file)
    import gymnasium as gym
    from rl_zoo3.train import train

    if not _asks_help(args):
        args = checked_training_arguments(f"{PROGRAM} {name}", args)
        if ranks_started() > 1 and (name != "train" or parse_known(f"{PROGRAM} {name}", args)[0].algo != ALGORITHM):
            msg = f"torchrun starts several processes for one agent, which only `train` of {ALGORITHM} can use"
            raise UserError(msg)
    with torchrun() as comm, arguments_of_rank(args, comm) as own, _command_line(name, own):
        try:
            train()
        except gym.error.DependencyNotInstalled as error:
            raise UserError(str(error)) from error
    return 0


def optimize(args: Sequence[str]) -> int:
    """Search hyperparameters with Optuna; several workers may share one study (--storage FILE.log)."""
    if _option(args, "--storage") and not _option(args, "--study-name"):
        options, _ = parse_known(f"{PROGRAM} optimize", args)
        # One name for all the workers: the study is found again, and goes on.
        args = ["--study-name", f"{options.algo}_{options.env}", *args]
    return _train("optimize", ["--optimize-hyperparameters", "--progress", *args])


def enjoy(args: Sequence[str]) -> int:
    """Watch a trained agent."""
    args = _with_trained_agent("enjoy", args)
    from rl_zoo3.enjoy import enjoy

    with _command_line("enjoy", args):
        enjoy()
    return 0


def record_video(args: Sequence[str]) -> int:
    """Record a video of a trained agent."""
    args = _with_trained_agent("record-video", args)
    with _command_line("record-video", args):
        runpy.run_module("rl_zoo3.record_video", run_name="__main__")
    return 0


def _with_trained_agent(name: str, args: Sequence[str]) -> list[str]:
    """RL-Zoo's defaults are its own trained agents; here they are this project's algorithm and the folder of ``train``."""
    _register()
    if _asks_help(args):
        return list(args)
    options, _ = parse_known(f"{PROGRAM} {name}", args)
    folder = _option(args, "-f", "--folder") or "logs"
    check_algorithm(options.algo)
    check_environment(options.env)
    if _option(args, "--exp-id") != "-1":
        check_trained(folder, options.algo, options.env)
    return ["--algo", options.algo, "-f", folder, *args]


def all_plots(args: Sequence[str]) -> int:
    """Plot and tabulate the evaluations of several runs."""
    _register()
    require("rl_zoo3.plots", "all-plots", "plots")
    from rl_zoo3.plots import all_plots

    if not _asks_help(args):
        if _option(args, "-e", "--env") is None:
            msg = "all-plots needs the environments to plot: -e Pendulum-v1 Hopper-v5"
            raise UserError(msg)
        if _option(args, "-f", "--exp-folders") is None:
            args = ["-f", "logs", *args]
        if _option(args, "-a", "--algos") is None:
            folder = _option(args, "-f", "--exp-folders") or "logs"
            args = ["-a", *([algo for algo in (BASELINE, ALGORITHM) if Path(folder, algo).is_dir()] or [ALGORITHM]), *args]
    with _command_line("all-plots", args):
        all_plots()
    return 0


def sweep(args: Sequence[str]) -> int:
    """Run a grid sweep on this machine, several runs at once, resumable, W&B offline."""
    require("rich", "sweep", "zoo")
    _register()
    from sb3_trpo_fvp.zoo.sweeps.command import sweep

    return sweep(args)


def sweep_run(args: Sequence[str]) -> int:
    """Run one run of a sweep: what `wandb agent` calls."""
    from sb3_trpo_fvp.zoo.sweeps.run import sweep_run

    _register()
    return sweep_run(args, lambda zoo_args, progress_file: _train("sweep-run", zoo_args, progress_file))


def compare(args: Sequence[str]) -> int:
    """Train sb3-contrib's TRPO and this one side by side: a table, a figure, a JSON file."""
    _register()
    from sb3_trpo_fvp.zoo.compare.command import compare

    return compare(args)


def check(args: Sequence[str]) -> int:
    """Compare the Fisher operators on a saved model: agreement, symmetry, definiteness, time per product."""
    from sb3_trpo_fvp.check.check import main

    return main(args)


def configs(args: Sequence[str]) -> int:
    """Print the folder of the hyperparameter and sweep files."""
    print(config_folder())
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "enjoy": enjoy,
    "record-video": record_video,
    "optimize": optimize,
    "all-plots": all_plots,
    "compare": compare,
    "check": check,
    "sweep": sweep,
    "sweep-run": sweep_run,
    "configs": configs,
}


def usage() -> str:
    """
    List the commands.

    :return: the text, one line a command
    """
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{(command.__doc__ or '').strip().splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND [options]",
            "",
            "TRPO for Stable-Baselines3 with swappable Fisher-vector products.",
            "",
            "commands:",
            *lines,
            "",
            f"`{PROGRAM} COMMAND --help` shows the options of a command. For example:",
            "",
            f"  {PROGRAM} train --env HalfCheetah-v5 -P",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """
    :param argv: the command line without the program's name; ``sys.argv`` by default
    :return: the exit code: 0, 1 if runs failed, 2 for a mistake in the command line, 130 after Ctrl-C
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] in ("-V", "--version"):
        print(f"{PROGRAM} {__version__}")
        return 0
    try:
        command = COMMANDS.get(args[0].replace("_", "-"))
        if command is None:
            raise UserError(suggest("command", args[0], COMMANDS))
        return command(args[1:])
    except UserError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
