"""Finding what ``enjoy``, ``record-video`` and ``all-plots`` show, before RL-Zoo looks for it."""

import argparse
import contextlib
import io
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sb3_trpo_fvp.zoo.checks import check_algorithm, check_device, check_environment, check_folder, check_model
from sb3_trpo_fvp.zoo.command_line import UserError


def check_agent(options: argparse.Namespace) -> None:
    """
    :param options: of ``enjoy`` or ``record-video``
    :raises UserError: if there is no such agent, or it cannot be shown as asked
    """
    check_algorithm(options.algo)
    check_environment(options.env, options.gym_packages)
    check_device(options.device)
    for name in ("n_timesteps", "n_envs"):
        if getattr(options, name) < 1:
            msg = f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}"
            raise UserError(msg)
    if options.exp_id != -1:
        _check_trained(options.folder, options.algo, options.env)
    check_model(_model(options), options.algo)
    if options.reward_log:
        check_folder("--reward-log", options.reward_log)
    if options.output_folder:
        check_folder("--output-folder", options.output_folder)


def check_display() -> None:
    """:raises UserError: if a window cannot be opened for want of a display"""
    named = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"))
    if sys.platform == "linux" and not named:
        msg = "there is no display to show the agent on: add --no-render, or use record-video"
        raise UserError(msg)


def check_offscreen(env_id: str) -> None:
    """
    :param env_id: an environment to film
    :raises UserError: if MuJoCo would look for a display that is not there
    """
    import gymnasium as gym

    mujoco = "mujoco" in str(gym.registry[env_id].entry_point)
    named = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"))
    if sys.platform == "linux" and mujoco and not named:
        msg = "MuJoCo films without a display only if MUJOCO_GL=egl or MUJOCO_GL=osmesa is set"
        raise UserError(msg)


def _check_trained(folder: str, algo: str, env_id: str) -> None:
    name = env_id.replace("/", "-")
    runs = _folders(Path(folder, algo))
    if any(run.rpartition("_")[0] == name for run in runs):
        return
    there = [f"{each} on {run}" for each in _folders(Path(folder)) for run in _folders(Path(folder, each))]
    found = f"found there: {', '.join(there[:12])}" if there else "nothing was trained there yet"
    msg = f"no {algo} agent for {env_id} in {folder!r}; {found}"
    raise UserError(msg)


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def _model(options: argparse.Namespace) -> str:
    from rl_zoo3.utils import EnvironmentName, get_latest_run_id, get_model_path

    name = EnvironmentName(options.env)
    which = options.load_best, options.load_checkpoint, options.load_last_checkpoint
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            path: str = get_model_path(options.exp_id, options.folder, options.algo, name, *which)[1]
    except (AssertionError, ValueError) as error:
        run = options.exp_id or get_latest_run_id(os.path.join(options.folder, options.algo), name)
        place = Path(options.folder, options.algo, *([f"{name}_{run}"] if run > 0 else []))
        models = sorted(model.name for model in place.glob("*.zip"))
        found = f"; {place} holds {', '.join(models)}" if models else "; it holds no model: its training was not finished"
        msg = f"{error}{found if place.is_dir() else ''}"
        raise UserError(msg) from error
    return path


def check_plots(options: argparse.Namespace) -> None:
    """
    :param options: of ``all-plots``
    :raises UserError: if there is nothing to plot of an environment, or an evaluation cannot be read
    """
    if options.labels is not None and len(options.labels) != len(options.exp_folders):
        msg = f"--labels needs one label for each of the {len(options.exp_folders)} folders, got {len(options.labels)}"
        raise UserError(msg)
    if options.output:
        check_folder("--output", Path(options.output).absolute().parent)
    places = [Path(folder, algo.lower()) for folder in options.exp_folders for algo in options.algos]
    runs = {place / run: run for place in places for run in _folders(place)}
    for env in options.env:
        files = [path / "evaluations.npz" for path, run in runs.items() if env in run and (path / "evaluations.npz").is_file()]
        if not files:
            there = sorted(set(runs.values()))
            found = f"found there: {', '.join(there[:12])}" if there else "there are no runs"
            msg = f"no evaluations of {env!r} in {', '.join(map(str, places))}; {found}"
            raise UserError(msg)
        for file in files:
            _check_evaluations(file, options.key)


def _check_evaluations(path: Path, key: str) -> None:
    try:
        with path.open("rb") as opened, np.load(opened) as content:
            evaluations: Mapping[str, np.ndarray] = dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        msg = f"{path} cannot be read ({type(error).__name__}: {error})"
        raise UserError(msg) from error
    if key not in evaluations:
        msg = f"{path} has no {key!r}: --key must be one of {', '.join(sorted(evaluations))}"
        raise UserError(msg)
