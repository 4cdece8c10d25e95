"""One run of :mod:`benchmarks.critic`: one critic drives, the other is its shadow."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import yaml
from sb3_contrib import TRPO as ContribTRPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecNormalize

from benchmarks.common.provenance import load_average, provenance
from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.critic.adam import AdamCritic
from sb3_trpo_fvp.critic.fit import CriticFit, CriticStats
from sb3_trpo_fvp.critic.gauss_newton import GaussNewtonCritic
from sb3_trpo_fvp.critic.value_function import ValueFunction
from sb3_trpo_fvp.policies import split_parameters
from sb3_trpo_fvp.rollouts.buffer import whole_rollout
from sb3_trpo_fvp.zoo.configs import ALGORITHM, BASELINE, default_config

ENVIRONMENTS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5")
CRITICS = ("adam", "gauss_newton")
CONTRIB_EVERY = 10


@dataclass(frozen=True)
class CriticRun:
    """
    One training run.

    :param env: the environment
    :param critic: which critic drives
    :param seed: of the run
    :param n_timesteps: environment steps
    """

    env: str
    critic: str
    seed: int
    n_timesteps: int

    @property
    def file_name(self) -> str:
        """Of its result."""
        return f"{self.env}-{self.critic}-{self.seed}-{self.n_timesteps}.json"


def plan(envs: Sequence[str], seeds: int, n_timesteps: int) -> list[CriticRun]:
    """
    List the runs, both critics on all environments before the next seed: an unfinished study compares like with like.

    :param envs: environments
    :param seeds: how many
    :param n_timesteps: steps of each run
    :return: the runs
    """
    return [CriticRun(env, critic, seed, n_timesteps) for seed in range(seeds) for env in envs for critic in CRITICS]


def settings(algorithm: str, env: str) -> tuple[dict[str, Any], int]:
    """
    Read the baseline's RL-Zoo hyperparameters; this project's TRPO has them too, but for the units of its KL.

    :param algorithm: RL-Zoo's key
    :param env: the environment, with observations and rewards normalised
    :return: the algorithm's arguments, and the number of environments
    """
    path = default_config(BASELINE)
    assert path is not None
    entry = dict(yaml.safe_load(Path(path).read_text())[env])
    assert entry.pop("normalize"), f"{env} is not normalised in {path}"
    n_envs = entry.pop("n_envs")
    entry.pop("n_timesteps")
    if algorithm == ALGORITHM:
        entry.update(target_kl=0.1 if env == "HalfCheetah-v5" else 0.05, cg_damping=0.5)
    return entry, n_envs


@contextmanager
def no_random_number_consumed() -> Iterator[None]:
    """Measure without a trace in the run that is measured."""
    state, torch_state = np.random.get_state(), th.get_rng_state()
    try:
        yield
    finally:
        np.random.set_state(state)
        th.set_rng_state(torch_state)


def seconds(function: Callable[[], object]) -> float:
    """
    Call a function.

    :param function: what to call
    :return: the CPU time that this process spent on it
    """
    started = time.process_time()
    function()
    return time.process_time() - started


class Paired(CriticFit):
    """
    Fit the driver, and its shadow to the same data.

    :param driver: fits the model's critic
    :param shadow: fits the other's
    :param shadow_values: the other, on the rollout
    :param shadow_state: what the other keeps between updates
    :param driver_first: the order
    """

    def __init__(
        self,
        driver: CriticFit,
        shadow: CriticFit,
        shadow_values: ValueFunction,
        shadow_state: dict[str, float],
        driver_first: bool,
    ):
        self.training_mode = driver.training_mode  # type: ignore[misc]
        self._driver, self._shadow, self._shadow_values = driver, shadow, shadow_values
        self._shadow_state = shadow_state
        self._driver_first = driver_first
        self.driver_seconds = self.shadow_seconds = 0.0

    def fit(self, values: ValueFunction, returns: th.Tensor, state: Mapping[str, float]) -> CriticStats:
        """Fit both, see :meth:`CriticFit.fit`."""
        stats: list[CriticStats] = []
        shadow: list[CriticStats] = []
        for drives in (self._driver_first, not self._driver_first):
            if drives:
                self.driver_seconds = seconds(lambda: stats.append(self._driver.fit(values, returns, state)))
            else:
                with no_random_number_consumed():
                    self.shadow_seconds = seconds(
                        lambda: shadow.append(self._shadow.fit(self._shadow_values, returns, self._shadow_state))
                    )
                    self._shadow_state |= shadow[0].state
        return stats[0]


class StudiedTRPO(TRPO):
    """TRPO with a shadow critic and a clock."""

    paired: Paired | None = None
    shadow_policy: Any
    shadow_state: dict[str, float]
    contrib: Any

    def prepare(self, contrib: Any) -> None:
        """
        Set the shadow up.

        :param contrib: sb3-contrib's TRPO on the same spaces
        """
        self.shadow_policy, self.shadow_state, self.contrib = copy.deepcopy(self.policy), {}, contrib
        self.records: list[dict[str, float]] = []
        contrib.set_logger(Logger(None, []))

    def make_critic(self, name: str) -> CriticFit:
        """
        Set a critic up as the study compares them: each at its defaults but for RL-Zoo's numbers.

        :param name: which
        :return: the critic
        """
        return GaussNewtonCritic() if name == "gauss_newton" else AdamCritic(self.n_critic_updates, self.batch_size)

    def make_critic_fit(self) -> CriticFit:
        """Return both critics as one, once they are set up."""
        return self.paired or super().make_critic_fit()

    def train(self) -> None:
        """Update as always, and measure."""
        rollout = whole_rollout(self.rollout_buffer)
        split = split_parameters(self.shadow_policy, rollout.observations)
        shadow_values = ValueFunction(self.shadow_policy, split, rollout.observations)
        with th.no_grad():
            shadow = shadow_values().flatten().numpy()
        returns = rollout.returns.numpy()
        driver_name = self.critic
        (shadow_name,) = set(CRITICS) - {driver_name}
        update = len(self.records)
        self.paired = paired = Paired(
            self.make_critic(driver_name),
            self.make_critic(shadow_name),
            shadow_values,
            self.shadow_state,
            driver_first=update % 2 == 0,
        )
        contrib_seconds = float("nan")
        if update % CONTRIB_EVERY == 0:
            self.contrib.policy.load_state_dict(self.policy.state_dict())
            self.contrib.rollout_buffer = copy.deepcopy(self.rollout_buffer)
            with no_random_number_consumed():
                contrib_seconds = seconds(self.contrib.train)
        train_seconds = seconds(super().train) - paired.shadow_seconds
        log = self.logger.name_to_value
        self.records.append(
            {
                "step": self.num_timesteps,
                "return": float(np.mean([episode["r"] for episode in self.ep_info_buffer or []])),
                f"{driver_name}_explained_variance": float(explained_variance(rollout.old_values.numpy(), returns)),
                f"{shadow_name}_explained_variance": float(explained_variance(shadow, returns)),
                f"{driver_name}_seconds": paired.driver_seconds,
                f"{shadow_name}_seconds": paired.shadow_seconds,
                "train_seconds": train_seconds,
                "contrib_train_seconds": contrib_seconds,
                "damping": (self.critic_state or self.shadow_state)["damping"],
                "kl": log["trust_region/kl"],
                "load": load_average() or float("nan"),
            }
        )


def train(run: CriticRun, **overrides: Any) -> dict[str, Any]:
    """
    Do a run.

    :param run: which
    :param overrides: arguments of both algorithms in place of RL-Zoo's, for tests
    :return: what was measured, update by update
    """
    th.set_num_threads(1)
    kwargs, n_envs = settings(ALGORITHM, run.env)
    contrib_kwargs, _ = settings(BASELINE, run.env)
    kwargs, contrib_kwargs = kwargs | overrides, contrib_kwargs | overrides
    env = VecNormalize(make_vec_env(run.env, n_envs=n_envs, seed=run.seed), gamma=kwargs["gamma"])
    contrib = ContribTRPO(**contrib_kwargs, env=env, seed=run.seed, device="cpu")
    model = StudiedTRPO(**kwargs, env=env, seed=run.seed, device="cpu", critic=run.critic, sample_reuse=1)
    model.prepare(contrib)
    model.learn(run.n_timesteps)
    env.close()
    series = {key: [_rounded(record[key]) for record in model.records] for key in model.records[0]}
    return {"run": asdict(run), "settings": kwargs, "environment": provenance(), "updates": series}


def _rounded(value: float) -> float | int | None:
    """Four digits; JSON knows no NaN."""
    return value if isinstance(value, int) else float(f"{value:.4g}") if np.isfinite(value) else None
