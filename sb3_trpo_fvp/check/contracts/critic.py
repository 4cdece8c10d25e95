"""The contract of a critic fit: the loss falls, and nothing of the actor moves."""

import math
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_trpo_fvp.check.contracts.policy_copy import copy_policy
from sb3_trpo_fvp.check.finding import Finding, judge
from sb3_trpo_fvp.critic.fit import CriticFit, CriticStats, CriticStatus, fit_critic
from sb3_trpo_fvp.policies import evaluation_mode, num_observations, split_parameters


class _Trial:
    """A copy of a policy, fitted; the original stays as it is."""

    def __init__(self, policy: ActorCriticPolicy, observations: PyTorchObs, returns: th.Tensor | None = None):
        self.policy = copy_policy(policy)
        self.policy.set_training_mode(False)  # as the rollout leaves it
        self.observations = observations
        self.split = split_parameters(self.policy, observations)
        self.returns = self.values() if returns is None else returns
        self.before = self.loss()
        self.actor = self._actor_tensors()
        self.modes = [module.training for module in self.policy.modules()]

    def _actor_tensors(self) -> list[th.Tensor]:
        buffers = [buffer for module in self.split.actor_modules for buffer in module.buffers(recurse=False)]
        return [tensor.detach().clone() for tensor in (*self.split.actor, *buffers)]

    @th.no_grad()
    def values(self) -> th.Tensor:
        with evaluation_mode(self.policy):
            return self.policy.predict_values(self.observations).flatten().clone()

    def loss(self) -> float:
        return float((self.values().double() - self.returns.double()).square().mean())

    def fit(self, critic: CriticFit, state: Mapping[str, float], seed: int) -> CriticStats:
        rollout = SimpleNamespace(observations=self.observations, returns=self.returns)
        numpy_state = np.random.get_state()
        with th.random.fork_rng([self.policy.device] if self.policy.device.type == "cuda" else []):
            th.manual_seed(seed)
            np.random.seed(seed)
            try:
                return fit_critic(critic, self.policy, self.split, rollout, state)
            finally:
                np.random.set_state(numpy_state)

    @property
    def actor_kept(self) -> bool:
        return all(map(th.equal, self.actor, self._actor_tensors()))

    @property
    def critic(self) -> list[th.Tensor]:
        return [parameter.detach().clone() for parameter in self.split.critic]


def check_critic(
    make: Callable[[], CriticFit], policy: ActorCriticPolicy, observations: PyTorchObs, *, num_fits: int = 5, seed: int = 0
) -> Iterator[Finding]:
    """
    Look at the promises of a :class:`~sb3_trpo_fvp.critic.fit.CriticFit`, on copies of a policy; the returns rise from 1 to 2
    over the states.

    :param make: builds the fit
    :param policy: with a critic that has parameters of its own
    :param observations: N states, at least 2
    :param num_fits: fits one after the other
    :param seed: of what the fits draw
    :return: one finding for each promise
    :raises ValueError: if the policy has no parameters that are the critic's alone
    """
    if not split_parameters(policy, observations).critic:
        msg = "`policy` must have parameters that are the critic's alone, got none"
        raise ValueError(msg)
    targets = th.linspace(1.0, 2.0, num_observations(observations), device=policy.device)
    trial, twin = (_Trial(policy, observations, targets) for _ in range(2))
    stats = trial.fit(make(), {}, seed)
    loss = trial.loss()
    yield judge("actor kept", trial.actor_kept, "parameters and buffers of the actor are the same to the last bit")
    yield judge("modes kept", trial.modes == [m.training for m in trial.policy.modules()], "training and evaluation mode")
    known = isinstance(stats, CriticStats) and isinstance(stats.status, CriticStatus)
    yield judge("named status", known and stats.status is CriticStatus.FITTED, f"{getattr(stats, 'status', stats)}")
    if not known:
        return
    yield judge("finite loss", math.isfinite(stats.loss), f"the loss told is {stats.loss}")
    numbers = all(isinstance(key, str) and type(value) in (int, float) for key, value in stats.state.items())
    yield judge("state of plain numbers", numbers, f"{stats.state!r}, which a model is saved with")
    fell = loss <= trial.before
    yield judge("loss does not rise", fell, f"mean squared error {trial.before:.4g} before, {loss:.4g} after")

    twin.fit(make(), {}, seed)
    alike = all(map(th.equal, trial.critic, twin.critic))
    yield judge("repeatability", alike, "the same seed gives the same critic to the last bit")
    state = dict(stats.state)
    for _ in range(num_fits - 1):
        state = dict(trial.fit(make(), state, seed).state)
    later = trial.loss()
    yield judge("progress", later < trial.before, f"mean squared error {trial.before:.4g}, {later:.4g} after {num_fits} fits")
    yield judge("actor kept by all fits", trial.actor_kept, "from state to state")

    perfect = _Trial(policy, observations)
    perfect.fit(make(), {}, seed)
    scale = float(perfect.returns.double().square().mean())
    still = perfect.loss() <= 1e-6 * max(scale, 1e-6)
    yield judge("perfect values kept", still, f"mean squared error {perfect.loss():.1e} where it was 0")
