"""
The joint KL of one update, sb3-contrib's TRPO and this one, at the same ``target_kl`` and ``cg_damping``.

Measuring policy: sb3-contrib's defaults for both, a rollout of 2048 states an update, the first three updates of three seeds.
The KL is that of the whole action, old policy first, mean over the states of the rollout, computed in double precision from
the parameters of the distributions before and after ``train()``, by formulas of this file alone. No clock is read: the
result depends on seeds and rounding, and not on what else the machine does.

``python -m benchmarks.joint_kl`` measures and writes the table into the page on coming from sb3-contrib; with
``report`` it only writes.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO as ContribTRPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor

import benchmarks
from benchmarks import ROOT
from benchmarks.common.pages import update_page
from benchmarks.common.provenance import provenance
from benchmarks.common.study import Study, Verb
from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.trpo.arguments import AS_SB3_CONTRIB, SB3_CONTRIB_DEFAULTS

RESULTS = benchmarks.RESULTS / "joint_kl.json"
PAGE = ROOT / "docs" / "coming-from-sb3-contrib.md"
N_STEPS, UPDATES, SEEDS = 2048, 3, 3
ALGORITHMS = {"sb3-contrib": ContribTRPO, "sb3-trpo-fvp": TRPO}


class Buttons(gym.Env):
    """Eight switches, to be set as the signs of eight numbers: an action space that no MuJoCo environment has."""

    observation_space = spaces.Box(-np.inf, np.inf, (8,))
    action_space = spaces.MultiBinary(8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode of 64 steps."""
        super().reset(seed=seed)
        self._steps = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Pay for every switch that is right."""
        reward = float(np.mean(action == (self._state > 0)))
        self._steps += 1
        return self._observe(), reward, False, self._steps >= 64, {}

    def _observe(self) -> np.ndarray:
        self._state = self.np_random.standard_normal(8).astype(np.float32)
        return self._state


ENVIRONMENTS = {
    "CartPole-v1": lambda: gym.make("CartPole-v1"),
    "Pendulum-v1": lambda: gym.make("Pendulum-v1"),
    "Hopper-v5": lambda: gym.make("Hopper-v5"),
    "HalfCheetah-v5": lambda: gym.make("HalfCheetah-v5"),
    "8 switches": Buttons,
    "Humanoid-v5": lambda: gym.make("Humanoid-v5"),
}


def kl(old: Any, new: Any) -> float:
    """Mean over states of the KL of the joint action."""
    if isinstance(old, th.distributions.Normal):
        m, s, n, t = (tensor.double().numpy() for tensor in (old.loc, old.scale, new.loc, new.scale))
        per_dimension = np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5
    else:
        logits = [d.logits.double().numpy() for d in (old, new)]
        if isinstance(old, th.distributions.Bernoulli):
            logits = [np.stack([z, np.zeros_like(z)], -1) for z in logits]
        log_p, log_q = (z - np.logaddexp.reduce(z, -1, keepdims=True) for z in logits)
        per_dimension = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    return float(per_dimension.reshape(len(per_dimension), -1).sum(1).mean())


def measure(algorithm: Any, environment: str, seed: int, updates: int) -> list[float]:
    """Train for a few updates and return the joint KL of each."""
    model = algorithm(
        "MlpPolicy",
        Monitor(ENVIRONMENTS[environment]()),
        **{**(AS_SB3_CONTRIB if algorithm is TRPO else SB3_CONTRIB_DEFAULTS), "n_steps": N_STEPS},
        seed=seed,
        device="cpu",
    )
    model.set_logger(Logger(None, []))
    measured = []
    train = model.train

    def train_and_measure() -> None:
        next(model.rollout_buffer.get(batch_size=1))
        observations = th.as_tensor(model.rollout_buffer.observations)
        with th.no_grad():
            old = model.policy.get_distribution(observations).distribution
            train_with_grad()
            measured.append(kl(old, model.policy.get_distribution(observations).distribution))

    @th.enable_grad()
    def train_with_grad() -> None:
        train()

    model.train = train_and_measure
    model.learn(updates * N_STEPS)
    return measured


def dimensions(environment: str) -> int:
    """How many dimensions sb3-contrib averages over."""
    space = ENVIRONMENTS[environment]().action_space
    return 1 if isinstance(space, spaces.Discrete) else int(np.prod(space.shape))


def run(seeds: int, updates: int) -> dict[str, Any]:
    """Measure everything."""
    rows = [
        {
            "environment": environment,
            "dimensions": dimensions(environment),
            "algorithm": name,
            "joint_kl": [measure(algorithm, environment, seed, updates) for seed in range(seeds)],
        }
        for environment in ENVIRONMENTS
        for name, algorithm in ALGORITHMS.items()
    ]
    return {
        **SB3_CONTRIB_DEFAULTS,
        "n_steps": N_STEPS,
        "environment": provenance(),
        "rows": rows,
    }


def table(results: dict[str, Any]) -> str:
    """The table of the documentation: mean and largest joint KL over accepted and refused updates of all seeds."""
    lines = [
        "| environment | A | sb3-contrib: mean (largest) | this package: mean (largest) | `target_kl` |",
        "|---|---|---|---|---|",
    ]
    rows = {(row["environment"], row["algorithm"]): row for row in results["rows"]}
    for environment in dict.fromkeys(row["environment"] for row in results["rows"]):
        cells = []
        for name in ALGORITHMS:
            values = np.asarray(rows[environment, name]["joint_kl"])
            cells.append(f"{values.mean():.4f} ({values.max():.4f})")
        lines.append(
            f"| {environment} | {rows[environment, name]['dimensions']} | {' | '.join(cells)} | {results['target_kl']} |"
        )
    return "\n".join(lines)


def _run(options: argparse.Namespace) -> None:
    results = run(options.seeds, options.updates)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(results, indent=1) + "\n")
    _report(options)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=UPDATES, help="of each seed (default: %(default)s)")
    _report_arguments(parser)


def _report(options: argparse.Namespace) -> None:
    text = table(json.loads(options.results.read_text()))
    update_page(PAGE, {"joint_kl": text})
    print(text)


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file (default: %(default)s)")


STUDY = Study(
    "joint_kl",
    run=Verb("measure, then report", _run, _run_arguments),
    report=Verb("write the table from the committed results", _report, _report_arguments),
    default="run",
)

if __name__ == "__main__":
    STUDY.main()
