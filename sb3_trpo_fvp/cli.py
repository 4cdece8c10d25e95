"""The ``sb3-trpo-fvp`` command: RL-Zoo with this project's TRPO, sweeps, and the comparison with sb3-contrib."""

import runpy
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sb3_trpo_fvp import __version__
from sb3_trpo_fvp.distributed.launch import ranks_started, torchrun
from sb3_trpo_fvp.zoo.checks import check_device, check_model, checked_training_arguments
from sb3_trpo_fvp.zoo.command_line import ArgumentParser, UserError, require, suggest
from sb3_trpo_fvp.zoo.configs import ALGORITHM, BASELINE, config_folder
from sb3_trpo_fvp.zoo.options import agent_options, plot_options, training_options
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


def train(args: Sequence[str]) -> int:
    """Train an agent (RL-Zoo's train: every option of it works)."""
    return _train("train", args)


def _train(name: str, args: Sequence[str], progress_file: Path | None = None) -> int:
    _register(progress_file)
    from rl_zoo3.train import train

    if not _asks_help(args):
        args = checked_training_arguments(f"{PROGRAM} {name}", args)
        if ranks_started() > 1 and (name != "train" or training_options(f"{PROGRAM} {name}", args).algo != ALGORITHM):
            msg = f"torchrun starts several processes for one agent, which only `train` of {ALGORITHM} can use"
            raise UserError(msg)
    with torchrun() as comm, arguments_of_rank(args, comm) as own, _command_line(name, own), _missing_packages_named():
        train()
    return 0


def optimize(args: Sequence[str]) -> int:
    """Search hyperparameters with Optuna; several workers may share one study (--storage FILE.log)."""
    _register()
    if not _asks_help(args):
        options = training_options(f"{PROGRAM} optimize", args)
        if options.storage and not options.study_name:
            # One name for all the workers: the study is found again, and goes on.
            args = ["--study-name", f"{options.algo}_{options.env}", *args]
    return _train("optimize", ["--optimize-hyperparameters", "--progress", *args])


def enjoy(args: Sequence[str]) -> int:
    """Watch a trained agent."""
    from sb3_trpo_fvp.zoo.agents import check_display

    def check(options: Namespace) -> None:
        if not options.no_render:
            check_display()

    args = _with_trained_agent("enjoy", args, check)
    from rl_zoo3.enjoy import enjoy

    with _command_line("enjoy", args), _missing_packages_named():
        enjoy()
    return 0


def record_video(args: Sequence[str]) -> int:
    """Record a video of a trained agent."""
    from sb3_trpo_fvp.zoo.agents import check_offscreen

    args = _with_trained_agent("record-video", args, lambda options: check_offscreen(options.env))
    with _command_line("record-video", args), _missing_packages_named():
        runpy.run_module("rl_zoo3.record_video", run_name="__main__")
    return 0


def _with_trained_agent(name: str, args: Sequence[str], check: Callable[[Namespace], None]) -> list[str]:
    """RL-Zoo's defaults are its own trained agents; here they are this project's algorithm and the folder of ``train``."""
    _register()
    from sb3_trpo_fvp.zoo.agents import check_agent

    if _asks_help(args):
        return list(args)
    options = agent_options(f"{PROGRAM} {name}", args)
    check_agent(options)
    check(options)
    return ["--algo", options.algo, "-f", options.folder, *args]


@contextmanager
def _missing_packages_named() -> Iterator[None]:
    import gymnasium as gym

    try:
        yield
    except gym.error.DependencyNotInstalled as error:
        raise UserError(str(error)) from error


def all_plots(args: Sequence[str]) -> int:
    """Plot and tabulate the evaluations of several runs."""
    _register()
    require("rl_zoo3.plots", "all-plots", "plots")
    from rl_zoo3.plots import all_plots

    from sb3_trpo_fvp.zoo.agents import check_plots

    if not _asks_help(args):
        options = plot_options(f"{PROGRAM} all-plots", args)
        if options.env is None:
            msg = "all-plots needs the environments to plot: -e Pendulum-v1 Hopper-v5"
            raise UserError(msg)
        if options.exp_folders is None:
            options.exp_folders = ["logs"]
            args = ["-f", "logs", *args]
        if options.algos is None:
            folders = options.exp_folders
            trained = [algo for algo in (BASELINE, ALGORITHM) if any(Path(folder, algo).is_dir() for folder in folders)]
            options.algos = trained or [ALGORITHM]
            args = ["-a", *options.algos, *args]
        check_plots(options)
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

    if not _asks_help(args):
        parser = ArgumentParser(prog=f"{PROGRAM} check", add_help=False, allow_abbrev=False)
        parser.add_argument("model")
        parser.add_argument("--device", default="auto")
        options, _ = parser.parse_known_args(args)
        check_model(options.model if Path(options.model).is_file() else f"{options.model.removesuffix('.zip')}.zip")
        check_device(options.device)
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
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
