"""Models of both packages with equal weights on equal rollouts of real environments."""

import copy
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import sb3_contrib
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import RolloutBufferSamples

import sb3_trpo_fvp
from sb3_trpo_fvp.trpo.arguments import AS_SB3_CONTRIB, SB3_CONTRIB_DEFAULTS

# Frames of the image environment are drawn without a display.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

Algorithm = TypeVar("Algorithm", bound=OnPolicyAlgorithm)


@dataclass(frozen=True)
class Workload:
    """
    A policy and the rollout that it is measured on.

    :param env_id: of Gymnasium
    :param n_envs: environments stepped in turns
    :param n_steps: of each
    :param policy: SB3's name for it
    :param net_arch: hidden layers of actor and critic each, SB3's default for the policy if None
    :param updates_before: how often sb3-contrib updates the policy, on 2048 states, before the rollout that counts
    """

    env_id: str
    n_envs: int = 1
    n_steps: int = 2048
    policy: str = "MlpPolicy"
    net_arch: tuple[int, ...] | None = None
    updates_before: int = 0

    @property
    def size(self) -> int:
        """States of the rollout."""
        return self.n_envs * self.n_steps

    def tiny(self) -> "Workload":
        """Shrink, to try the harness out."""
        return replace(self, n_envs=min(self.n_envs, 2), n_steps=128, updates_before=0)

    def build(self, algorithm: type[Algorithm], **kwargs: Any) -> Algorithm:
        """
        Build a model: seed 0, on the CPU, else at sb3-contrib's defaults, and at ours for what only ours has.

        :param algorithm: either package's TRPO
        :param kwargs: further arguments of it
        :return: the model, with a logger that writes nowhere
        """
        env = make_vec_env(self.env_id, n_envs=self.n_envs, seed=0)
        policy_kwargs = {} if self.net_arch is None else {"net_arch": list(self.net_arch)}
        defaults = SB3_CONTRIB_DEFAULTS if algorithm is sb3_contrib.TRPO else AS_SB3_CONTRIB
        arguments = {**defaults, "n_steps": self.n_steps, "policy_kwargs": policy_kwargs, "seed": 0, "device": "cpu", **kwargs}
        model = algorithm(self.policy, env, **arguments)
        model.set_logger(Logger(None, []))
        return model


@dataclass(frozen=True)
class Rollout:
    """
    What one model saw, for others to be filled with.

    :param weights: of the policy that acted
    :param buffer: the rollout buffer's attributes, before anything was drawn from it
    """

    weights: dict[str, th.Tensor]
    buffer: dict[str, Any]

    def fill(self, model: OnPolicyAlgorithm) -> None:
        """
        Give a model these weights and this rollout, whatever was done to it before.

        :param model: of the same workload
        """
        with th.no_grad():
            for name, tensor in model.policy.state_dict().items():
                tensor.copy_(self.weights[name])
        vars(model.rollout_buffer).update(copy.deepcopy(self.buffer))


def collect(workload: Workload) -> Rollout:
    """
    Act in the environment, with sb3-contrib's model.

    :param workload: what to collect
    :return: the rollout
    """
    model = workload.build(sb3_contrib.TRPO)
    if workload.updates_before:
        trained = replace(workload, n_envs=1, n_steps=2048).build(sb3_contrib.TRPO)
        trained.learn(workload.updates_before * trained.n_steps)
        model.policy.load_state_dict(trained.policy.state_dict())
    _, callback = model._setup_learn(workload.size)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=workload.n_steps)
    weights = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    return Rollout(weights, copy.deepcopy(vars(model.rollout_buffer)))


def cached_rollout(workload: Workload, folder: Path) -> Rollout:
    """
    Collect a rollout, or load it if one of the processes of this run has collected it.

    :param workload: what to collect
    :param folder: where rollouts are kept
    :return: the rollout
    """
    file = folder / f"{workload}.pickle".replace("/", "-")
    if not file.exists():
        file.write_bytes(pickle.dumps(collect(workload)))
    rollout: Rollout = pickle.loads(file.read_bytes())
    return rollout


@dataclass(frozen=True)
class Contestants:
    """
    Both packages' models with the same weights and the same rollout.

    :param theirs: sb3-contrib's
    :param ours: this package's
    :param rollout: of both
    """

    theirs: sb3_contrib.TRPO
    ours: sb3_trpo_fvp.TRPO
    rollout: Rollout

    def states(self, n: int | None = None) -> RolloutBufferSamples:
        """
        Take states, actions and advantages out of the rollout.

        :param n: how many, all if None
        :return: tensors, n rows each
        """
        self.rollout.fill(self.theirs)
        samples = next(self.theirs.rollout_buffer.get(batch_size=None))
        return RolloutBufferSamples(*(field[:n] for field in samples))

    def reset(self, model: OnPolicyAlgorithm) -> Callable[[], None]:
        """
        Prepare the return to the state before an update.

        :param model: either
        :return: does it
        """
        return lambda: self.rollout.fill(model)


def contestants(workload: Workload, rollout: Rollout, **both: Any) -> Contestants:
    """
    Build both models.

    :param workload: of both
    :param rollout: to fill them with
    :param both: arguments of either package's TRPO besides
    :return: the models, filled
    """
    result = Contestants(workload.build(sb3_contrib.TRPO, **both), workload.build(sb3_trpo_fvp.TRPO, **both), rollout)
    rollout.fill(result.theirs)
    rollout.fill(result.ours)
    return result
