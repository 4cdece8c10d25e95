"""
The screening of hyperparameters for ``trpo_fvp.yml``: ``python -m benchmarks.screening``.

Seven settings at two levels each, on every environment of the learning benchmark, in the 12 runs of a Plackett-Burman design
(Plackett and Burman, 1946): each level of each setting is in half of the runs, and each pair of levels of two settings in a
quarter of them, so that every run says something about every setting. The effect of a setting is the mean score of the runs
at its high level less that of those at its low one. The four columns of the design that no setting uses show how large noise
and interactions of settings, which a third of each reaches every column, are together. Scores are normalised final returns.

``--run FOLDER`` does the runs that are missing, by ``sb3-trpo-fvp sweep`` and on a seed that the benchmark does not report,
``--collect FOLDER`` takes their returns into ``benchmarks/results/screening.json``, and without either the table is written
from there.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.learning import LAST, ROOT, read_references
from benchmarks.tables import markdown_table, update_page
from sb3_trpo_fvp.cli import main as command
from sb3_trpo_fvp.zoo.results import load_results

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
SMALL = 'policy_kwargs={"log_std_init":-1.0}'
SHORT, LONG = "n_steps=512", "n_steps=1024"
ADAM, BRIEF_ADAM, GAUSS_NEWTON = "critic=adam", "critic=adam n_critic_updates=10", "critic=gauss_newton"
TRIED: dict[str, dict[str, tuple[int, ...]]] = {
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
"""What was tried at full length, on which seeds; what ``trpo_fvp.yml`` took first."""
FULL_LENGTH = 300_000


def design() -> np.ndarray:
    """
    Build the design of 12 runs.

    :return: levels -1 and 1, (12, 11), columns orthogonal
    """
    first = np.array([1, 1, -1, 1, 1, 1, -1, -1, -1, 1, -1])
    return np.vstack([[np.roll(first, shift) for shift in range(11)], -np.ones(11, dtype=int)])


def variants(env: str) -> list[str]:
    """
    Write the runs of one environment down.

    :param env: the environment
    :return: the algorithm of each run with its settings, as sweep files name it
    """
    factors = FACTORS | LEVELS_OF.get(env, {})
    runs = []
    for row in design()[:, : len(factors)]:
        settings = [f"{name}={levels[int(level > 0)]}" for (name, levels), level in zip(factors.items(), row, strict=True)]
        runs.append(" ".join([OVER, *settings]))
    return runs


def effects(scores: np.ndarray) -> np.ndarray:
    """
    Estimate what each column of the design does.

    :param scores: of the 12 runs
    :return: mean at the high level less mean at the low one, (11,)
    """
    return design().T @ scores / 6.0


def runs_of(env: str) -> list[tuple[str, int, int]]:
    """
    List an environment's runs, of the screening first.

    :param env: the environment
    :return: algorithm with its settings, seed and steps of each
    """
    tried = [(f"{OVER} {settings}", seed) for settings, seeds in TRIED[env].items() for seed in seeds]
    return [*((variant, SEED, STEPS) for variant in variants(env)), *((*run, FULL_LENGTH) for run in tried)]


def collect(sweep: Path) -> dict[str, list[float]]:
    """
    Take the final returns of the finished runs.

    :param sweep: the folder
    :return: by environment, in the order of :func:`runs_of`
    :raises ValueError: if some run is not finished
    """
    finals = {}
    for result in load_results(sweep):
        key = result.parameters["env"], result.variant, result.parameters["seed"]
        finals[key] = round(float(result.evaluations()[1][-LAST:].mean()), 1)
    missing = [(env, *run) for env in ENVS for run in runs_of(env) if (env, *run[:2]) not in finals]
    if missing:
        msg = f"{len(missing)} runs are not finished: {missing}"
        raise ValueError(msg)
    return {env: [finals[env, variant, seed] for variant, seed, _ in runs_of(env)] for env in ENVS}


def table(results: dict[str, list[float]]) -> str:
    """
    Tabulate the effects.

    :param results: as committed
    :return: markdown
    """
    references = read_references()
    found = {}
    for env, finals in results.items():
        low, high = references[env]["random"], references[env]["reference"]
        found[env] = effects((np.array(finals[: len(design())]) - low) / (high - low))
    envs = list(found)
    header = ("setting", "low", "high", *envs, "mean")
    body = []
    for index, (name, levels) in enumerate(FACTORS.items()):
        own = [env for env in envs if name in LEVELS_OF.get(env, {})]
        pooled = float(np.mean([found[env][index] for env in envs if env not in own]))
        note = "".join(f" ({env}: {', '.join(LEVELS_OF[env][name])}; not in the mean)" for env in own)
        shown = [level.replace("{", "").replace("}", "").replace('"', "").replace(":", " ") for level in levels]
        cells = [f"{found[env][index]:+.2f}" for env in envs]
        body.append((f"`{name}`{note}", *shown, *cells, f"**{pooled:+.2f}**"))
    idle = slice(len(FACTORS), None)
    spread = [f"±{np.sqrt(np.mean(found[env][idle] ** 2)):.2f}" for env in envs]
    means = np.mean(list(found.values()), axis=0)
    last = f"±{np.sqrt(np.mean(means[idle] ** 2)):.2f}"
    body.append(("no setting (root mean square of 4)", "", "", *spread, last))
    return markdown_table(header, body)


def tried_table(results: dict[str, list[float]]) -> str:
    """
    Tabulate what was tried at full length.

    :param results: as committed
    :return: markdown
    """
    body = []
    for env, of in TRIED.items():
        finals = iter(results[env][len(design()) :])
        for settings, seeds in of.items():
            returns = ", ".join(f"{next(finals):.0f}" for _ in seeds)
            body.append((env, f"`{settings}`", ", ".join(map(str, seeds)), returns))
    return markdown_table(("environment", "settings", "seeds", "return"), body)


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Do the runs or take their results if asked to, and write the page.

    :param arguments: the command line
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screening", description="Screen hyperparameters.")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="do the runs that are missing in a sweep's folder")
    parser.add_argument("--collect", type=Path, metavar="FOLDER", help="take the returns out of a sweep's folder")
    options = parser.parse_args(arguments)
    if options.run:
        for env in ENVS:
            for variant, seed, steps in runs_of(env):
                settings = [f"algo={json.dumps([variant])}", f"env={env}", f"seed={seed}", f"n_timesteps={steps}"]
                command(["sweep", "benchmark", "--no-wandb", "-o", str(options.run), "--set", *settings])
    if options.run or options.collect:
        RESULTS.write_text(json.dumps(collect(options.run or options.collect), indent=1) + "\n", encoding="utf-8")
    if RESULTS.exists():
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
        parts = {"screening": table(results), "tried": tried_table(results)}
        update_page(PAGE, parts)
        print("\n\n".join(parts.values()))


if __name__ == "__main__":
    main()
