"""Compare the Fisher operators on a model's own policy and states."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_fvp.check.contracts.family import sample_actions
from sb3_trpo_fvp.check.contracts.fisher_operator import examine, operator_name
from sb3_trpo_fvp.check.measure import OperatorReport, measure_step
from sb3_trpo_fvp.check.reference import find_reference
from sb3_trpo_fvp.check.report import FisherReport, find_faults, give_advice
from sb3_trpo_fvp.check.states import (
    Normalization,
    find_normalization,
    find_states,
    load_normalization,
    was_trained_normalized,
)
from sb3_trpo_fvp.fisher import FISHER_OPERATORS, FisherOperator, fisher_class, fisher_operator
from sb3_trpo_fvp.linalg.vectors import all_finite
from sb3_trpo_fvp.policies import evaluation_mode, num_observations
from sb3_trpo_fvp.trpo import TRPO

_DAMPING = 0.1
"""λ of steps by the operators of a model that has none, a PPO for example."""


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
    Compare the Fisher operators on a model's own policy and states, and say what is wrong and what the comparison means.

    >>> print(check_fisher(model))  # doctest: +SKIP

    Every operator, one of your own as ``TRPO(..., fisher=...)`` among them, is held against the whole contract of
    :func:`~sb3_trpo_fvp.check.contracts.check_fisher_operator`, and KL and Fisher matrix of the action distribution against
    differences of the KL. A report without a remark means that all of it holds.

    Neither the policy nor the random state of the process is changed. States are, in this order: those given, those of
    the rollout buffer, those that the policy meets in the model's environment (which is reset), and random elements of
    the observation space. The actions of the empirical Fisher are drawn from the policy as it is now.

    :param model: TRPO of this package or of sb3-contrib, PPO or A2C: any algorithm with an actor-critic policy
    :param observations: states to use as the policy sees them, (N, ...) or a dict of such arrays
    :param num_states: most states to use, at least 2
    :param num_vectors: random vectors to multiply, at least 2
    :param lanczos_steps: products spent on the Ritz values, at least 1
    :param seed: of the actions and the vectors
    :return: the report
    :raises ValueError: if an argument is outside its interval, or states are not finite
    """
    return _check(model, observations, num_states, num_vectors, lanczos_steps, seed)


def _check(
    model: OnPolicyAlgorithm,
    observations: Any,
    num_states: int,
    num_vectors: int,
    lanczos_steps: int,
    seed: int,
    normalization: Normalization | None = None,
) -> FisherReport:
    """Do :func:`check_fisher`, and say what normalised the states."""
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
        states = find_states(model, observations, num_states, seed, normalization)
        if not all_finite(states.observations):
            msg = f"`observations` must be finite, got NaN or infinity among the states {states.source.value}"
            raise ValueError(msg)
        actions = _sample_rows(policy, states.observations)
        built = {name: _build(model, name, states.observations, actions) for name in _names(model)}
        operators = {name: operator for name, operator in built.items() if isinstance(operator, FisherOperator)}
        size = next((operator.shape[0] for operator in operators.values()), 0)
        dtype = next((operator.dtype for operator in operators.values()), th.get_default_dtype())
        vectors = [th.randn(size, dtype=dtype, device=device) for _ in range(num_vectors)]
        reference = find_reference(operators, vectors[0])
        exact = operators.get(reference.name)
        expected = None if exact is None else [exact.matvec(v) for v in vectors]
        damping: float | None = getattr(model, "cg_damping", None)
        reports: list[OperatorReport] = []
        for name, operator in built.items():
            if isinstance(operator, str):
                reports.append(OperatorReport(name, problem=operator))
                continue
            build = partial(fisher_operator, **_arguments(model, name))
            report = examine(name, operator, build, policy, states.observations, actions, vectors, expected, lanczos_steps)
            if exact is not None and report.is_fisher and not report.is_exact:
                g = _gradient(exact, actions)
                step = measure_step(operator, exact, g, _DAMPING if damping is None else damping, lanczos_steps)
                report = replace(report, step=step)
            reports.append(report)
    used = _name(getattr(model, "fisher", None))
    return FisherReport(
        source=states.source,
        num_states=num_observations(states.observations),
        num_parameters=size,
        operators=tuple(reports),
        advice=give_advice(reports, states, size, reference, used, damping),
        faults=find_faults(reports, states, reference, used),
        reference=reference.name,
        normalization=states.normalization,
    )


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

    A model that was trained with ``VecNormalize`` is checked on states normalised as then: the statistics are found beside the
    model, where ``VecNormalize.save`` and RL-Zoo leave them, or given. The report says which file was used.

    :param path: a zip file of this package's TRPO or of sb3-contrib's
    :param env_id: registered name of the environment to meet states in; without it, they are random
    :param vec_normalize: file of the ``VecNormalize`` that the model was trained with; by default the one found by the model
    :param num_states: see :func:`check_fisher`
    :param seed: of environment, actions and vectors
    :param device: to compute on
    :return: the report
    :raises ValueError: as :func:`check_fisher`, or if the statistics are of other observations
    """
    found = vec_normalize or find_normalization(path)
    env: VecEnv | None = make_vec_env(env_id, seed=seed) if env_id is not None else None
    try:
        normalizer = None
        if found is not None and env is not None:
            normalizer = load_normalization(found, env.observation_space)
            normalizer.set_venv(env)
            env = normalizer
        model = TRPO.load(path, env=env, device=device)
        if found is not None and env is None:
            normalizer = load_normalization(found, model.observation_space)
        missing = normalizer is None and was_trained_normalized(path)
        return _check(model, None, num_states, 4, 20, seed, Normalization(normalizer, str(found or ""), missing))
    finally:
        if env is not None:
            env.close()


def main(args: Sequence[str]) -> int:
    """
    Compare the Fisher operators on a saved model.

    :param args: the command line, without ``sb3-trpo-fvp check``
    :return: 0, or 1 if something is wrong with an operator or the states
    """
    parser = argparse.ArgumentParser("sb3-trpo-fvp check", description="Compare the Fisher operators on a saved model.")
    parser.add_argument("model", help="zip file of a saved TRPO, of this package or of sb3-contrib")
    parser.add_argument("--env", help="environment to meet states in; without it, they are random")
    parser.add_argument(
        "--vec-normalize", help="vecnormalize.pkl that the model was trained with; by default found by the model"
    )
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


def _name(fisher: str | type[FisherOperator] | None) -> str:
    """Return what a report calls an operator, empty for that of a model that has none."""
    return "" if fisher is None else operator_name(fisher_class(fisher))


def _arguments(model: OnPolicyAlgorithm, name: str) -> dict[str, Any]:
    """Return the arguments of :func:`fisher_operator`: ``fisher_kwargs`` are of the model's own operator."""
    if name in FISHER_OPERATORS:
        return {"kind": name}
    return {"kind": model.fisher, **model.fisher_kwargs}  # type: ignore[attr-defined]


def _names(model: OnPolicyAlgorithm) -> list[str]:
    """Return the operators to check: the package's, and the model's own."""
    return list(dict.fromkeys([*FISHER_OPERATORS, *filter(None, [_name(getattr(model, "fisher", None))])]))


def _build(model: OnPolicyAlgorithm, name: str, observations: PyTorchObs, actions: th.Tensor) -> FisherOperator | str:
    """Return the operator, or what kept it from being built."""
    try:
        return fisher_operator(model.policy, observations, actions, **_arguments(model, name))
    except ValueError as error:
        return str(error)


def _gradient(operator: FisherOperator, actions: th.Tensor) -> th.Tensor:
    """A surrogate's gradient, g = mean(Â ∇log π(a|s)) with random advantages Â."""
    actor = operator.actor
    advantages = th.randn(actor.size, dtype=operator.dtype, device=operator.device)
    g = th.zeros(operator.shape[0], dtype=operator.dtype, device=operator.device)
    for chunk in actor.chunks:
        actor.log_prob(chunk, actions).vjp([advantages[chunk] / actor.size], out=g)
    return g


def _sample_rows(policy: ActorCriticPolicy, observations: PyTorchObs) -> th.Tensor:
    """Draw one action in each state, independently, as rollout buffers hold them."""
    with th.no_grad():
        actions = sample_actions(policy.get_distribution(observations))
    rows = actions.reshape(num_observations(observations), -1)
    return rows if isinstance(policy.action_space, spaces.Box) else rows.float()
