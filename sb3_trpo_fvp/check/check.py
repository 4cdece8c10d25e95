"""Compare the Fisher operators on a model's own policy and states."""

import argparse
import copy
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_trpo_fvp.check.measure import REFERENCE, OperatorReport, measure_operator
from sb3_trpo_fvp.check.report import FisherReport, find_faults, give_advice
from sb3_trpo_fvp.fisher import FISHER_OPERATORS, FisherOperator, fisher_operator
from sb3_trpo_fvp.linalg.vectors import all_finite
from sb3_trpo_fvp.policies import evaluation_mode, index_observations, num_observations
from sb3_trpo_fvp.rollouts.buffer import flat_observations
from sb3_trpo_fvp.trpo import TRPO


def check_fisher(
    model: OnPolicyAlgorithm,
    observations: PyTorchObs | np.ndarray | dict[str, np.ndarray] | None = None,
    *,
    num_states: int = 1024,
    num_vectors: int = 4,
    lanczos_steps: int = 20,
    seed: int = 0,
) -> FisherReport:
    """
    Compare the Fisher operators on a model's own policy and states, and say what the comparison means.

    >>> print(check_fisher(model))  # doctest: +SKIP

    Neither the policy nor the random state of the process is changed. States are, in this order: those given, those of
    the rollout buffer, those that the policy meets in the model's environment (which is reset), and random elements of
    the observation space. The actions of the empirical Fisher are drawn from the policy as it is now.

    :param model: TRPO of this package or of sb3-contrib, PPO or A2C: any algorithm with an actor-critic policy
    :param observations: states to use, (N, ...) or a dict of such arrays
    :param num_states: most states to use, at least 2
    :param num_vectors: random vectors to multiply, at least 2
    :param lanczos_steps: products spent on the Ritz values, at least 1
    :param seed: of the actions and the vectors
    :return: the report
    :raises ValueError: if an argument is outside its interval, or states are not finite
    """
    for name, value, least in (
        ("num_states", num_states, 2),
        ("num_vectors", num_vectors, 2),
        ("lanczos_steps", lanczos_steps, 1),
    ):
        if value < least:
            msg = f"`{name}` must be in [{least}, ∞), got {value!r}"
            raise ValueError(msg)
    policy = model.policy
    device = policy.device
    with th.random.fork_rng([device] if device.type == "cuda" else []), evaluation_mode(policy):
        th.manual_seed(seed)
        states, source = _states(model, observations, num_states, seed)
        if not all_finite(states):
            msg = f"`observations` must be finite, got NaN or infinity among the states {source}"
            raise ValueError(msg)
        actions = _sample_actions(policy, states)
        own = getattr(model, "fisher", None)
        kinds: list[str | type[FisherOperator]] = [REFERENCE, *(name for name in FISHER_OPERATORS if name != REFERENCE)]
        if isinstance(own, type) and own not in FISHER_OPERATORS.values():
            kinds.append(own)
        built = [_build(policy, states, actions, kind, getattr(model, "fisher_kwargs", {})) for kind in kinds]
        operators = [operator for _, operator in built if isinstance(operator, FisherOperator)]
        size = operators[0].shape[0] if operators else 0
        vectors = [th.randn(size, device=device) for _ in range(num_vectors)]
        reference = built[0][1]
        expected = [reference.matvec(v) for v in vectors] if isinstance(reference, FisherOperator) else None
        reports = tuple(
            OperatorReport(name, problem=operator)
            if isinstance(operator, str)
            else measure_operator(name, operator, vectors, expected, lanczos_steps)
            for name, operator in built
        )
    damping = getattr(model, "cg_damping", None)
    faults, advice = find_faults(reports), give_advice(reports, num_observations(states), size, source, damping)
    return FisherReport(source, num_observations(states), size, reports, advice, faults)


def check_model_file(
    path: str,
    env_id: str | None = None,
    *,
    vec_normalize: str | None = None,
    num_states: int = 1024,
    seed: int = 0,
    device: th.device | str = "auto",
) -> FisherReport:
    """
    Do :func:`check_fisher` on a saved model.

    :param path: a zip file of this package's TRPO or of sb3-contrib's
    :param env_id: registered name of the environment to meet states in; without it, they are random
    :param vec_normalize: file of the ``VecNormalize`` that the model was trained with
    :param num_states: see :func:`check_fisher`
    :param seed: of environment, actions and vectors
    :param device: to compute on
    :return: the report
    """
    env: VecEnv | None = make_vec_env(env_id, seed=seed) if env_id is not None else None
    try:
        if vec_normalize is not None:
            if env is None:
                msg = "`vec_normalize` needs `env_id`, got None"
                raise ValueError(msg)
            env = VecNormalize.load(vec_normalize, env)
            env.training = False
        return check_fisher(TRPO.load(path, env=env, device=device), num_states=num_states, seed=seed)
    finally:
        if env is not None:
            env.close()


def main(args: Sequence[str]) -> int:
    """
    Compare the Fisher operators on a saved model.

    :param args: the command line, without ``sb3-trpo-fvp check``
    :return: 0, or 1 if something is wrong with an operator
    """
    parser = argparse.ArgumentParser("sb3-trpo-fvp check", description="Compare the Fisher operators on a saved model.")
    parser.add_argument("model", help="zip file of a saved TRPO, of this package or of sb3-contrib")
    parser.add_argument("--env", help="environment to meet states in; without it, they are random")
    parser.add_argument("--vec-normalize", help="vecnormalize.pkl that the model was trained with")
    parser.add_argument("--num-states", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(list(args))
    options = {"num_states": given.num_states, "seed": given.seed, "device": given.device}
    try:
        report = check_model_file(given.model, given.env, vec_normalize=given.vec_normalize, **options)
    except (OSError, ValueError, gym.error.Error) as error:
        parser.error(str(error))
    print(report)
    return 1 if report.faults else 0


def _states(model: OnPolicyAlgorithm, given: Any, num_states: int, seed: int) -> tuple[PyTorchObs, str]:
    """Find states, on the policy's device, and name where they are from."""
    buffer = getattr(model, "rollout_buffer", None)
    if given is not None:
        arrays, source = given, "given"
    elif buffer is not None and buffer.full:
        arrays, source = flat_observations(buffer), "of the rollout buffer"
    elif model.env is not None:
        arrays, source = _visited(model, model.env, num_states, seed), "met in the environment"
    else:
        space = copy.deepcopy(model.observation_space)
        space.seed(seed)
        samples = [space.sample() for _ in range(num_states)]
        arrays, source = _stack(samples), "drawn from the observation space"
    tensors = obs_as_tensor(arrays, model.policy.device) if isinstance(arrays, dict | np.ndarray) else arrays
    every = max(1, num_observations(tensors) // num_states)
    return index_observations(index_observations(tensors, slice(None, None, every)), slice(num_states)), source


def _visited(model: OnPolicyAlgorithm, env: VecEnv, num_states: int, seed: int) -> Any:
    """Let the policy act, as in a rollout, and keep what it sees."""
    env.seed(seed)
    seen: list[Any] = []
    last: Any = env.reset()
    while len(seen) * env.num_envs < num_states:
        seen.append(last)
        actions, _ = model.policy.predict(last, deterministic=False)
        last, *_ = env.step(actions)
    # The next learn() has to reset the environment: it no longer stands where the model believes it does.
    model._last_obs = None
    if isinstance(seen[0], dict):
        return {key: np.concatenate([observation[key] for observation in seen]) for key in seen[0]}
    return np.concatenate(seen)


def _stack(samples: list[Any]) -> Any:
    if isinstance(samples[0], dict):
        return {key: np.stack([np.asarray(sample[key]) for sample in samples]) for key in samples[0]}
    return np.stack([np.asarray(sample) for sample in samples])


@th.no_grad()
def _sample_actions(policy: ActorCriticPolicy, observations: PyTorchObs) -> th.Tensor:
    """Draw one action in each state, independently, as rollout buffers hold them."""
    distribution = policy.get_distribution(observations)
    if isinstance(distribution, StateDependentNoiseDistribution):
        # Its sample() uses one noise matrix for all states, and a new one would be the policy's from then on.
        assert isinstance(distribution.distribution, th.distributions.Normal)
        actions = distribution.distribution.sample()  # type: ignore[no-untyped-call]
        if distribution.bijector is not None:
            actions = distribution.bijector.forward(actions)
    else:
        actions = distribution.get_actions()
    rows: th.Tensor = actions.reshape(num_observations(observations), -1)
    return rows if isinstance(policy.action_space, spaces.Box) else rows.float()


def _build(
    policy: ActorCriticPolicy,
    states: PyTorchObs,
    actions: th.Tensor,
    kind: str | type[FisherOperator],
    own_kwargs: dict[str, Any],
) -> tuple[str, FisherOperator | str]:
    """Return the name, and the operator or what kept it from being built."""
    name = kind if isinstance(kind, str) else kind.__name__
    try:
        return name, fisher_operator(policy, states, actions, kind=kind, **({} if isinstance(kind, str) else own_kwargs))
    except ValueError as error:
        return name, str(error)
