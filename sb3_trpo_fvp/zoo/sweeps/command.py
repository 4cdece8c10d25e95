"""``sb3-trpo-fvp sweep``: a grid sweep on this machine, without a server."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from sb3_trpo_fvp.zoo.checks import check_algorithm, check_environment, check_folder, check_hyperparameters
from sb3_trpo_fvp.zoo.command_line import ArgumentParser, UserError, require
from sb3_trpo_fvp.zoo.results import Result
from sb3_trpo_fvp.zoo.sweeps.runner import Runner, last_evaluation
from sb3_trpo_fvp.zoo.sweeps.settings import hyperparameters_of
from sb3_trpo_fvp.zoo.sweeps.sweep import Sweep, SweepRun


def summary(runner: Runner) -> Table:
    """
    :param runner: a runner that ran
    :return: what became of each run
    """
    table = Table(title=f"Runs in {runner.output}", title_justify="left")
    table.add_column("algorithm")
    table.add_column("environment")
    for column in ("seed", "seconds", "last evaluation"):
        table.add_column(column, justify="right")
    for run in runner.runs:
        row = [run.variant, str(run.options["env"]), str(run.options.get("seed", ""))]
        if runner.is_finished(run):
            folder = runner.folder(run)
            table.add_row(*row, f"{Result.load(folder).seconds:.0f}", last_evaluation(folder))
        else:
            table.add_row(*row, "", "[red]failed[/]" if run in runner.failed else "not finished")
    return table


def sweep(args: Sequence[str]) -> int:
    """
    :param args: the command line
    :return: 0 if every run is finished, 1 if not
    """
    parser = ArgumentParser(prog="sb3-trpo-fvp sweep", description="Run a grid sweep on this machine, W&B offline, resumable.")
    parser.add_argument("file", help="a W&B sweep file, or the name of one of this project's")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="how many runs at once (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, help="folder of the runs (default: logs/sweeps/FILE)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="replace parameters: seed=[0,1] n_timesteps=5000"
    )
    parser.add_argument("--no-wandb", action="store_true", help="do not track the runs")
    parser.add_argument("--wandb-project-name", help="W&B project (default: the file's)")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and end")
    options = parser.parse_args(args)
    if options.jobs < 1:
        msg = f"--jobs must be at least 1, got {options.jobs}"
        raise UserError(msg)
    plan = Sweep.load(options.file, dict(map(_setting, options.set)))
    runs = plan.runs()
    output = options.output or Path("logs", "sweeps", plan.path.stem)
    check_runs(runs)
    check_folder("--output", output)
    if options.dry_run:
        for run in runs:
            print(run.name, json.dumps(dict(run.parameters)))
        return 0
    if not options.no_wandb:
        require("wandb", "tracking (left out by --no-wandb)", "wandb")
    project = None if options.no_wandb else options.wandb_project_name or plan.project
    runner = Runner(runs, output, options.jobs, project)
    complete = runner.run()
    runner.console.print(summary(runner))
    if project and os.environ.get("WANDB_MODE", "offline") == "offline":
        runner.console.print(f"Upload them with: wandb sync {runner.output}/*/wandb/offline-run-*", highlight=False)
    return 0 if complete else 1


def check_runs(runs: Sequence[SweepRun]) -> None:
    """
    Find slips before hours of training, not after.

    :param runs: the runs of a sweep
    :raises UserError: for an unknown algorithm, environment, hyperparameter or hyperparameter file
    """
    for algo, env in dict.fromkeys((run.algo, str(run.options["env"])) for run in runs):
        check_algorithm(algo)
        check_environment(env)
    for run in runs:
        check_hyperparameters(run.algo, run.hyperparams)
        run.zoo_arguments(".")
        hyperparameters_of(run)


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        msg = f"--set takes KEY=VALUE, got {text!r}"
        raise UserError(msg)
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        msg = f"--set {text}: {value!r} is not valid YAML"
        raise UserError(msg) from error
