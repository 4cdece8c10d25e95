"""``sb3-trpo-fvp compare``: sb3-contrib's TRPO and this project's on the same budget, side by side."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sb3_trpo_fvp.zoo.checks import check_algorithm, check_environment, check_folder, check_settings
from sb3_trpo_fvp.zoo.command_line import ArgumentParser, UserError, require
from sb3_trpo_fvp.zoo.compare.summary import Summary, speedup, summarize
from sb3_trpo_fvp.zoo.configs import ALGORITHM, BASELINE, default_config
from sb3_trpo_fvp.zoo.results import Result
from sb3_trpo_fvp.zoo.sweeps.runner import Runner
from sb3_trpo_fvp.zoo.sweeps.settings import hyperparameters_of
from sb3_trpo_fvp.zoo.sweeps.sweep import SweepRun

EVALUATIONS = 10
EVALUATION_EPISODES = 5


def table(env: str, n_timesteps: int, baseline: Summary, ours: Summary) -> Table:
    """
    Set both algorithms side by side.

    :param env: the environment
    :param n_timesteps: steps of each run
    :param baseline: sb3-contrib's
    :param ours: this project's
    :return: the table, readable without the documentation
    """
    seeds = len(baseline.returns)
    result = Table(title=f"{env}, {n_timesteps:,} steps, {seeds} seed{'s' * (seeds > 1)}", title_justify="left")
    result.add_column("mean [95 % interval]")
    result.add_column(baseline.label, justify="right")
    result.add_column(ours.label, justify="right")
    rows: list[tuple[str, Any, Any]] = [
        ("return, last evaluation", baseline.final_return, ours.final_return),
        ("training time, s", baseline.seconds, ours.seconds),
        ("steps per second", baseline.steps_per_second, ours.steps_per_second),
        ("target_kl, the bound", f"{baseline.target_kl:g}", f"{ours.target_kl:g}"),
        ("joint KL of an update", baseline.joint_kl, ours.joint_kl),
        ("updates that keep it", f"{baseline.kl_kept.mean:.0%}", f"{ours.kl_kept.mean:.0%}"),
        ("CG steps of an update", baseline.cg_steps, ours.cg_steps),
        ("line searches won", f"{baseline.line_search_success.mean:.0%}", f"{ours.line_search_success.mean:.0%}"),
    ]
    for name, left, right in rows:
        result.add_row(name, str(left), str(right))
    return result


def plan(env: str, seeds: int, n_timesteps: int, fisher: str, like_for_like: bool) -> tuple[list[SweepRun], list[SweepRun]]:
    """
    List the runs.

    :param env: the environment
    :param seeds: how many seeds
    :param n_timesteps: steps of each run
    :param fisher: this project's operator
    :param like_for_like: give this project's TRPO sb3-contrib's hyperparameters, its KL, averaged over action dimensions,
        and the damped curvature in β
    :return: the runs of sb3-contrib's TRPO and of this project's, seed by seed
    """
    common = {
        "env": env,
        "n_timesteps": n_timesteps,
        "eval_freq": max(n_timesteps // EVALUATIONS, 1),
        "eval_episodes": EVALUATION_EPISODES,
        "num_threads": 1,
    }
    same = {"conf_file": default_config(BASELINE), "kl_reduction": "mean", "damped_beta": True}
    setting = same if like_for_like else {}
    variant = f"{ALGORITHM} fisher={fisher}"
    theirs = [SweepRun.from_parameters({"algo": BASELINE, **common, "seed": seed}) for seed in range(seeds)]
    ours = [SweepRun.from_parameters({"algo": variant, **common, **setting, "seed": seed}) for seed in range(seeds)]
    return theirs, ours


def compare(args: Sequence[str]) -> int:
    """
    Run the comparison.

    :param args: the command line
    :return: 0 if every run finished, 1 if not
    """
    parser = ArgumentParser(
        prog="sb3-trpo-fvp compare", description="Train sb3-contrib's TRPO and this project's side by side."
    )
    parser.add_argument("--env", default="Pendulum-v1", help="environment (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each algorithm (default: %(default)s)")
    parser.add_argument("-n", "--n-timesteps", type=int, default=50000, help="steps of each run (default: %(default)s)")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="runs at once (default: %(default)s, one of each algorithm)")
    parser.add_argument("--fisher", default="gauss_newton", help="this project's operator (default: %(default)s)")
    parser.add_argument(
        "--like-for-like",
        action="store_true",
        help="same hyperparameters, same KL (averaged over action dimensions) and same β for both, instead of each one's own",
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="folder (default: logs/compare/ENV); finished runs in it are not repeated"
    )
    options = parser.parse_args(args)
    for name in ("seeds", "n_timesteps", "jobs"):
        if getattr(options, name) < 1:
            msg = f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}"
            raise UserError(msg)
    check_algorithm(ALGORITHM)
    check_environment(options.env)
    require("matplotlib", "the figure of compare", "plots")
    from sb3_trpo_fvp.zoo.compare.figure import draw

    output = options.output or Path("logs", "compare", options.env.replace("/", "-"))
    theirs, ours = plan(options.env, options.seeds, options.n_timesteps, options.fisher, options.like_for_like)
    check_folder("--output", output)
    for run in (theirs[0], ours[0]):  # the others differ by their seeds
        check_settings(run.algo, hyperparameters_of(run))
    console = Console(soft_wrap=True)
    runner = Runner([run for pair in zip(theirs, ours, strict=True) for run in pair], output, options.jobs, console=console)
    if not runner.run():
        console.print("Not every run finished; the same command runs the missing ones.")
        return 1

    baseline = summarize("sb3-contrib TRPO", [Result.load(runner.folder(run)) for run in theirs])
    mine = summarize("sb3-trpo-fvp", [Result.load(runner.folder(run)) for run in ours])
    faster = speedup(baseline, mine)
    figure, numbers = output / "compare.png", output / "compare.json"
    title = f"{options.env}: sb3-contrib's TRPO and sb3-trpo-fvp, {options.seeds} seed{'s' * (options.seeds > 1)}"
    draw(figure, title + (", same settings" if options.like_for_like else ", each with its own settings"), [baseline, mine])
    content = {
        "command": ["sb3-trpo-fvp", "compare", *args],
        "env": options.env,
        "n_timesteps": options.n_timesteps,
        "seeds": options.seeds,
        "like_for_like": options.like_for_like,
        "time_of_baseline_over_ours": asdict(faster),
        "algorithms": [asdict(baseline), asdict(mine)],
        "versions": Result.load(runner.folder(ours[0])).versions,
    }
    numbers.write_text(json.dumps(content, indent=1) + "\n")
    console.print(table(options.env, options.n_timesteps, baseline, mine))
    console.print(
        f"sb3-contrib took {faster} times as long to train: seed by seed,\n"
        "each pair on the same machine at the same time. Evaluations are left out of the times.\n"
        "Joint KL is the divergence of the whole action between the old policy and the new one, measured by the same code\n"
        "for both after each update. sb3-contrib bounds its average over the action dimensions instead: with several of them\n"
        "its joint KL may exceed target_kl.\n"
        "Few seeds tell speeds and KLs apart, returns only where the intervals do.\n"
        f"Figure: {figure}\nNumbers: {numbers}",
        highlight=False,
    )
    return 0
