"""``sb3-trpo-fvp sweep-run``: one run of a sweep, started by ``wandb agent`` or by this project's local runner."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sb3_trpo_fvp.distributed.parent import end_with, exit_on
from sb3_trpo_fvp.zoo.checks import check_algorithm, check_environment, check_folder, check_hyperparameters
from sb3_trpo_fvp.zoo.command_line import ArgumentParser, UserError
from sb3_trpo_fvp.zoo.provenance import versions
from sb3_trpo_fvp.zoo.results import FINISHED
from sb3_trpo_fvp.zoo.sweeps.settings import settings_of
from sb3_trpo_fvp.zoo.sweeps.sweep import SweepRun, wandb_project

PROGRESS = "progress"
"""The file in a run's folder that tells the runner how far it is."""


def sweep_run(args: Sequence[str], train: Callable[[list[str], Path], int]) -> int:
    """
    :param args: the command line
    :param train: trains with a command line of RL-Zoo's, and reports its progress to a file
    :return: the exit code
    :raises UserError: if the parameters are no JSON object, or set what is no option and no hyperparameter
    """
    parser = ArgumentParser(prog="sb3-trpo-fvp sweep-run", description="Run one run of a sweep: what `wandb agent` calls.")
    parser.add_argument(
        "parameters", help='the parameters as one JSON object, e.g. \'{"algo": "trpo", "env": "Pendulum-v1"}\''
    )
    parser.add_argument("--output", help="the run's folder (default: logs/sweeps/SWEEP/RUN)", type=Path)
    parser.add_argument("--no-wandb", action="store_true", help="do not track the run with Weights & Biases")
    parser.add_argument("--wandb-project-name", help="project, where no agent sets it")
    parser.add_argument("--parent", type=int, metavar="PID", help="end the run when this process, which started it, has ended")
    options = parser.parse_args(args)
    if options.parent is not None:
        end_with(options.parent)
    try:
        parameters = json.loads(options.parameters)
    except json.JSONDecodeError as error:
        msg = f"the parameters must be one JSON object: {error}"
        raise UserError(msg) from error
    if not isinstance(parameters, dict):
        msg = f"the parameters must be one JSON object, got {options.parameters}"
        raise UserError(msg)

    run = SweepRun.from_parameters(parameters)
    check_algorithm(run.algo)
    check_environment(str(run.options["env"]))
    check_hyperparameters(run.algo, run.hyperparams)
    run.zoo_arguments(".")
    settings = settings_of(run)  # now, and not at the end: the hyperparameter file may change in between
    folder = options.output or Path("logs", "sweeps", os.environ.get("WANDB_SWEEP_ID", "local"), run.name)
    folder = folder.resolve()
    check_folder("--output", folder)
    folder.mkdir(parents=True, exist_ok=True)
    zoo_args = run.zoo_arguments(folder)
    if not options.no_wandb:
        project, entity = wandb_project()
        zoo_args += run.wandb_arguments(options.wandb_project_name or project, entity)
    _enter(folder)

    started = time.time()
    # RL-Zoo takes Ctrl-C for the end of a training and saves the model; a run of a sweep that is stopped is not finished.
    with exit_on("SIGINT", "SIGTERM", "SIGHUP"):
        code = train(zoo_args, folder / PROGRESS)
    if code == 0:
        _mark_finished(folder, run, settings, time.time() - started)
    return code


def _enter(folder: Path) -> None:
    """RL-Zoo, W&B and MuJoCo write into the working directory: without their own, runs of one second share their logs."""
    for variable in ("WANDB_SWEEP_PARAM_PATH", "WANDB_DIR"):
        if os.environ.get(variable):
            os.environ[variable] = os.path.abspath(os.environ[variable])
    os.chdir(folder)


def _mark_finished(folder: Path, run: SweepRun, settings: Mapping[str, Any], seconds: float) -> None:
    zoo_folder = max(folder.glob(f"{run.algo}/*/"), key=os.path.getmtime)
    content = {
        "name": run.name,
        "variant": run.variant,
        "parameters": dict(run.parameters),
        "settings": dict(settings),
        "seconds": seconds,
        "cpu_seconds": time.process_time(),  # what the run took, whatever else the machine did
        "folder": str(zoo_folder.relative_to(folder)),
        "versions": versions(),
    }
    temporary = folder / f"{FINISHED}.tmp"
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, folder / FINISHED)
