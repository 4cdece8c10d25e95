"""
The screening of hyperparameters for ``trpo_fvp.yml``: ``python -m benchmarks.tuning``.

Seven settings at two levels each, on every environment of the learning benchmark, in the 12 runs of a Plackett-Burman design
(Plackett and Burman, 1946): each level of each setting is in half of the runs, and each pair of levels of two settings in a
quarter of them, so that every run says something about every setting. The effect of a setting is the mean score of the runs
at its high level less that of those at its low one. The four columns of the design that no setting uses show how large noise
and interactions of settings, which a third of each reaches every column, are together. Scores are normalised final returns.

What that suggested was then tried on more seeds. ``--run FOLDER`` does the runs that are missing, by ``sb3-trpo-fvp sweep``
and on seeds that the benchmark does not report, ``--collect FOLDER`` takes the returns of those that are done into
``benchmarks/results/screening.json``, and without either the tables are written from there.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from benchmarks.learning.runs import LAST, ROOT, read_references
from benchmarks.speed.report import markdown_table, update_page
from sb3_trpo_fvp.cli import main as command
from sb3_trpo_fvp.zoo.results import load_results

Run: TypeAlias = tuple[str, int, int]
"""Settings, seed and steps."""
Returns: TypeAlias = dict[tuple[str, str, int, int], float]
"""Final return by environment, settings, seed and steps."""
Tried: TypeAlias = dict[str, dict[str, tuple[int, ...]]]
"""Seeds by environment and settings."""

RESULTS = ROOT / "benchmarks" / "results" / "screening.json"
PAGE = ROOT / "docs" / "benchmarks.md"
OVER = "trpo_fvp conf_file=trpo.yml"
"""Settings replace RL-Zoo's values, and not those of the file that is being tuned."""
FACTORS: dict[str, tuple[str, str]] = {
    "n_steps": ("1024", "512"),
    "target_kl": ("0.04", "0.12"),
    "cg_damping": ("0.2", "1.0"),
    "policy_kwargs": ('{"log_std_init":0.0}', '{"log_std_init":-1.0}'),
    "gae_lambda": ("0.95", "0.9"),
    "critic": ("adam", "gauss_newton"),
    "gamma": ("0.99", "0.98"),
}
"""Low and high level of each setting."""
LEVELS_OF: dict[str, dict[str, tuple[str, str]]] = {"Swimmer-v5": {"gamma": ("0.9999", "0.999")}}
"""Other levels where the shared ones make no sense: Swimmer's return lies far ahead."""
ENVS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Swimmer-v5", "LunarLanderContinuous-v3")
SEED = 100
STEPS = 200_000
SMALL, MEDIUM, LARGE = (f'policy_kwargs={{"log_std_init":{value}}}' for value in (-1.0, -0.5, 0.5))
SHORT, LONG, LONGER = "n_steps=512", "n_steps=1024", "n_steps=2048"
ADAM, BRIEF_ADAM, GAUSS_NEWTON = "critic=adam", "critic=adam n_critic_updates=10", "critic=gauss_newton"
TRIED: Tried = {
    "HalfCheetah-v5": {
        f"{SHORT} target_kl=0.08 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {GAUSS_NEWTON}": (101,),
        f"{LONG} target_kl=0.12 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {ADAM}": (101,),
        f"{SHORT} target_kl=0.08 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {BRIEF_ADAM}": (101,),
    },
    "Hopper-v5": {
        f"{LONG} target_kl=0.04 gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {GAUSS_NEWTON}": (101, 102),
        f"{SHORT} target_kl=0.08 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {GAUSS_NEWTON}": (101, 102),
        f"{LONG} target_kl=0.12 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {ADAM}": (101,),
        f"{SHORT} target_kl=0.08 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {BRIEF_ADAM}": (101,),
    },
    "Walker2d-v5": {
        f"{LONG} target_kl=0.12 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {ADAM}": (101, 102),
        f"{SHORT} target_kl=0.08 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {BRIEF_ADAM}": (101,),
        f"{SHORT} target_kl=0.08 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {GAUSS_NEWTON}": (101,),
    },
    "Swimmer-v5": {
        f"{LONG} target_kl=0.04 gae_lambda=0.98 cg_damping=1.0 gamma=0.9999 {GAUSS_NEWTON}": (101, 102),
        f"{LONG} target_kl=0.02 gae_lambda=0.98 cg_damping=0.5 gamma=0.9999 {ADAM}": (101, 102),
        f"{LONG} target_kl=0.02 gae_lambda=0.95 cg_damping=0.5 gamma=0.9999 {ADAM}": (101, 102),
        f"{SHORT} target_kl=0.04 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.999 {GAUSS_NEWTON}": (101, 102),
        f"{LONG} target_kl=0.12 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.9999 {ADAM}": (101,),
        f"{SHORT} target_kl=0.08 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.9999 {BRIEF_ADAM}": (101,),
        f"{SHORT} target_kl=0.08 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.9999 {GAUSS_NEWTON}": (101,),
    },
    "LunarLanderContinuous-v3": {
        f"{LONG} target_kl=0.04 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {ADAM}": (101, 102, 103),
        f"{SHORT} target_kl=0.04 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {BRIEF_ADAM}": (101, 102, 103),
        f"{SHORT} target_kl=0.04 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {GAUSS_NEWTON}": (101,),
        f"{SHORT} target_kl=0.04 {SMALL} gae_lambda=0.98 cg_damping=1.0 gamma=0.99 {GAUSS_NEWTON}": (101, 102, 103),
        f"{LONG} target_kl=0.02 gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {BRIEF_ADAM}": (101, 102, 103),
        f"{LONG} target_kl=0.02 gae_lambda=0.98 cg_damping=0.2 gamma=0.99 {ADAM}": (101, 102, 103),
        f"{LONG} target_kl=0.015 gae_lambda=0.95 cg_damping=0.2 gamma=0.99 {ADAM}": (101, 102, 103),
    },
}
"""What was tried first, at full length, on which seeds."""
FULL_LENGTH = 300_000
RETRIED: Tried = {
    "Swimmer-v5": {
        f"{LONG} target_kl=0.02 {LARGE} gae_lambda=0.98 cg_damping=0.5 gamma=0.9999 {ADAM}": (104, 105, 106, 107, 108),
        f"{LONG} target_kl=0.02 {LARGE} gae_lambda=0.99 cg_damping=0.5 gamma=0.9999 {ADAM}": (106, 107, 108),
        f"{LONG} target_kl=0.02 gae_lambda=0.98 cg_damping=0.5 gamma=0.9999 {ADAM}": (104, 105, 106, 107, 108),
        f"{LONG} target_kl=0.02 gae_lambda=0.98 cg_damping=0.2 gamma=0.9999 {ADAM}": (104, 105),
        f"{LONG} target_kl=0.02 gae_lambda=0.99 cg_damping=0.5 gamma=0.9999 {ADAM}": (104, 105, 106, 107, 108),
        f"{LONG} target_kl=0.02 gae_lambda=1.0 cg_damping=0.5 gamma=0.9999 {ADAM}": (106, 107, 108),
        f"{LONGER} target_kl=0.04 gae_lambda=0.98 cg_damping=0.5 gamma=0.9999 {ADAM}": (104, 105, 106, 107, 108),
        f"{LONG} target_kl=0.04 gae_lambda=0.98 cg_damping=1.0 gamma=0.9999 {GAUSS_NEWTON}": (104, 105, 106),
    },
    "LunarLanderContinuous-v3": {
        f"{LONG} target_kl=0.02 {LARGE} gae_lambda=0.95 cg_damping=0.5 gamma=0.99 {ADAM}": (104, 105, 106, 107, 108),
        f"{LONG} target_kl=0.02 gae_lambda=0.95 cg_damping=0.5 gamma=0.99 {ADAM}": (104, 105, 106, 107, 108),
        f"{LONG} target_kl=0.02 {MEDIUM} gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {ADAM}": (104, 105, 106),
        f"{LONG} target_kl=0.01 gae_lambda=0.95 cg_damping=0.5 gamma=0.99 {ADAM}": (104, 105, 106),
        f"{LONG} target_kl=0.02 gae_lambda=0.98 cg_damping=0.5 gamma=0.999 {ADAM}": (104, 105),
        f"{LONGER} target_kl=0.04 gae_lambda=0.95 cg_damping=0.5 gamma=0.99 {ADAM}": (104, 105, 106),
        f"{LONG} target_kl=0.04 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {ADAM}": (104, 105, 106),
        f"{SHORT} target_kl=0.04 {SMALL} gae_lambda=0.95 cg_damping=1.0 gamma=0.99 {GAUSS_NEWTON}": (104, 105),
    },
}
"""What was tried anew, for 200,000 steps, where what was chosen did not hold on the benchmark's seeds."""
CHOSEN = {
    **{env: next(iter(TRIED[env])) for env in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")},
    **{env: next(iter(RETRIED[env])) for env in ("Swimmer-v5", "LunarLanderContinuous-v3")},
}
"""What ``trpo_fvp.yml`` has."""


DEFAULTS = "target_kl=0.05 cg_damping=1.0"
"""What the constructor has."""
_FIRST, _THREE = (104, 105), (104, 105, 106)
SWAPPED: Tried = {
    "HalfCheetah-v5": {
        "target_kl=0.03 cg_damping=0.3": _THREE,
        "target_kl=0.03 cg_damping=1.0": _THREE,
        "target_kl=0.05 cg_damping=0.3": _FIRST,
        DEFAULTS: _THREE,
        "target_kl=0.1 cg_damping=0.5": _FIRST,
    },
    "Hopper-v5": {
        "target_kl=0.03 cg_damping=0.3": _THREE,
        "target_kl=0.03 cg_damping=1.0": _THREE,
        "target_kl=0.05 cg_damping=0.3": _THREE,
        DEFAULTS: _THREE,
        "target_kl=0.1 cg_damping=0.5": _FIRST,
    },
    "Walker2d-v5": {
        "target_kl=0.03 cg_damping=0.3": _THREE,
        "target_kl=0.05 cg_damping=0.3": _FIRST,
        DEFAULTS: _THREE,
        "target_kl=0.1 cg_damping=0.5": _FIRST,
    },
    "Swimmer-v5": {"target_kl=0.03 cg_damping=0.3": _THREE, DEFAULTS: _THREE},
    "LunarLanderContinuous-v3": {
        "target_kl=0.03 cg_damping=0.3": _THREE,
        "target_kl=0.03 cg_damping=1.0": _THREE,
        DEFAULTS: _THREE,
    },
}
"""What was tried for the constructor's defaults, in the sweep of the import swap."""
SWAP_STEPS = 100_000


def design() -> np.ndarray:
    """
    Build the design of 12 runs.

    :return: levels -1 and 1, (12, 11), columns orthogonal
    """
    first = np.array([1, 1, -1, 1, 1, 1, -1, -1, -1, 1, -1])
    return np.vstack([[np.roll(first, shift) for shift in range(11)], -np.ones(11, dtype=int)])


def variants(env: str) -> list[str]:
    """
    Write the screening runs of one environment down.

    :param env: the environment
    :return: the settings of each
    """
    factors = FACTORS | LEVELS_OF.get(env, {})
    runs = []
    for row in design()[:, : len(factors)]:
        settings = [f"{name}={levels[int(level > 0)]}" for (name, levels), level in zip(factors.items(), row, strict=True)]
        runs.append(" ".join(settings))
    return runs


def effects(scores: np.ndarray) -> np.ndarray:
    """
    Estimate what each column of the design does.

    :param scores: of the 12 runs
    :return: mean at the high level less mean at the low one, (11,)
    """
    return design().T @ scores / 6.0


def runs_of(env: str) -> list[Run]:
    """
    List an environment's runs, of the screening first.

    :param env: the environment
    :return: settings, seed and steps of each
    """
    screened = [(settings, SEED, STEPS) for settings in variants(env)]
    tried = [
        (settings, seed, steps)
        for steps, of in ((FULL_LENGTH, TRIED), (STEPS, RETRIED), (SWAP_STEPS, SWAPPED))
        for settings, seeds in of.get(env, {}).items()
        for seed in seeds
    ]
    return screened + tried


def sweep_of(steps: int) -> tuple[str, str]:
    """
    Tell what a run belongs to.

    :param steps: of the run
    :return: the sweep, and the algorithm that the settings are written behind
    """
    return ("defaults", "trpo_fvp") if steps == SWAP_STEPS else ("benchmark", OVER)


def read() -> Returns:
    """
    Read what is committed.

    :return: final return of each run
    """
    lines = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    return {(line["env"], line["settings"], line["seed"], line["steps"]): line["return"] for line in lines}


def write(returns: Returns) -> None:
    """
    Commit the returns, in the order of :func:`runs_of`.

    :param returns: of each run
    """
    runs = [(env, *run) for env in ENVS for run in runs_of(env)]
    names = ("env", "settings", "seed", "steps", "return")
    lines = [json.dumps(dict(zip(names, (*run, returns[run]), strict=True))) for run in runs if run in returns]
    RESULTS.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def collect(sweep: Path) -> Returns:
    """
    Take the final returns of the finished runs.

    :param sweep: the folder
    :return: of each run of this study
    """
    wanted = {(env, *run) for env in ENVS for run in runs_of(env)}
    found: Returns = {}
    for result in load_results(sweep):
        parameters = result.parameters
        steps = parameters["n_timesteps"]
        settings = result.variant.removeprefix(sweep_of(steps)[1]).strip()
        run = (parameters["env"], settings, parameters["seed"], steps)
        if run in wanted:
            found[run] = round(float(result.evaluations()[1][-LAST:].mean()), 1)
    return found


def table(returns: Returns) -> str:
    """
    Tabulate the effects.

    :param returns: as committed
    :return: markdown
    """
    references = read_references()
    found = {}
    for env in ENVS:
        finals = np.array([returns[env, settings, SEED, STEPS] for settings in variants(env)])
        low, high = references[env]["random"], references[env]["reference"]
        found[env] = effects((finals - low) / (high - low))
    header = ("setting", "low", "high", *ENVS, "mean")
    body = []
    for index, (name, levels) in enumerate(FACTORS.items()):
        own = [env for env in ENVS if name in LEVELS_OF.get(env, {})]
        pooled = float(np.mean([found[env][index] for env in ENVS if env not in own]))
        note = "".join(f" ({env}: {', '.join(LEVELS_OF[env][name])}; not in the mean)" for env in own)
        shown = [level.replace("{", "").replace("}", "").replace('"', "").replace(":", " ") for level in levels]
        cells = [f"{found[env][index]:+.2f}" for env in ENVS]
        body.append((f"`{name}`{note}", *shown, *cells, f"**{pooled:+.2f}**"))
    idle = slice(len(FACTORS), None)
    spread = [f"±{np.sqrt(np.mean(found[env][idle] ** 2)):.2f}" for env in ENVS]
    means = np.mean(list(found.values()), axis=0)
    last = f"±{np.sqrt(np.mean(means[idle] ** 2)):.2f}"
    body.append(("no setting (root mean square of 4)", "", "", *spread, last))
    return markdown_table(header, body)


def tried_table(returns: Returns, tried: Tried, steps: int, chosen: Mapping[str, str]) -> str:
    """
    Tabulate what was tried beyond the screening.

    :param returns: as committed
    :param tried: what, and on which seeds
    :param steps: of each run
    :param chosen: settings by environment
    :return: markdown, what was chosen in bold
    """
    body = []
    for env, of in tried.items():
        for settings, seeds in of.items():
            finals = [returns[env, settings, seed, steps] for seed in seeds]
            name = f"**`{settings}`**" if settings == chosen[env] else f"`{settings}`"
            shown = (", ".join(f"{number:.0f}" for number in numbers) for numbers in (seeds, finals, [np.mean(finals)]))
            body.append((env, name, *shown))
    return markdown_table(("environment", "settings", "seeds", "returns", "mean"), body)


def parts(returns: Returns) -> dict[str, str]:
    """
    Write everything that the page shows.

    :param returns: of all runs
    :return: tables by the name of their markers
    """
    return {
        "screening": table(returns),
        "tried": tried_table(returns, TRIED, FULL_LENGTH, CHOSEN),
        "retried": tried_table(returns, RETRIED, STEPS, CHOSEN),
        "swapped": tried_table(returns, SWAPPED, SWAP_STEPS, dict.fromkeys(ENVS, DEFAULTS)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Do the runs or take their results if asked to, and write the page.

    :param arguments: the command line
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description="Screen hyperparameters.")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="do the runs that are missing in a sweep's folder")
    parser.add_argument("--collect", type=Path, metavar="FOLDER", help="take the returns out of a sweep's folder")
    options = parser.parse_args(arguments)
    returns = read()
    if options.run:
        for env in ENVS:
            for settings, seed, steps in runs_of(env):
                if (env, settings, seed, steps) not in returns:
                    sweep, algorithm = sweep_of(steps)
                    chosen = {"algo": [f"{algorithm} {settings}"], "env": env, "seed": seed, "n_timesteps": steps}
                    values = [f"{name}={json.dumps(value)}" for name, value in chosen.items()]
                    command(["sweep", sweep, "--no-wandb", "-o", str(options.run), "--set", *values])
    if options.run or options.collect:
        returns |= collect(options.run or options.collect)
        write(returns)
    missing = [(env, *run) for env in ENVS for run in runs_of(env) if (env, *run) not in returns]
    if missing:
        sys.exit(f"{len(missing)} runs are not finished, and the page is as it was: {missing}")
    found = parts(returns)
    update_page(PAGE, found)
    print("\n\n".join(found.values()))


if __name__ == "__main__":
    main()
