"""Fill a rollout buffer, train on it, and tell what was logged and what has changed."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_trpo_fvp.linalg.status import NamedNumber
from tests.helpers.environments import VECTOR
from tests.helpers.models import make_model
from tests.helpers.oracles import distributions, joint_kl


def collect(model: OnPolicyAlgorithm) -> OnPolicyAlgorithm:
    """Fill the rollout buffer as ``learn`` does before ``train``."""
    model.set_logger(Logger(None, []))
    _, callback = model._setup_learn(total_timesteps=10**6, reset_num_timesteps=False)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model


def collected(action_space: spaces.Space, observation_space: spaces.Space = VECTOR, **kwargs: Any) -> Any:
    """A small model with a full rollout buffer."""
    return collect(make_model(action_space, observation_space, **kwargs))


def rollout(model: OnPolicyAlgorithm) -> Any:
    """The whole rollout in the buffer's order, as ``train`` sees it."""
    state = np.random.get_state()
    next(model.rollout_buffer.get(batch_size=1))
    np.random.set_state(state)
    return model.rollout_buffer._get_samples(np.arange(model.n_steps * model.n_envs))


def states_actions_advantages(model: Any) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """The rollout as three tensors of floats, in the order of :func:`rollout`; the buffer is left as it is."""
    buffer = model.rollout_buffer
    assert not buffer.generator_ready
    flat = [th.as_tensor(buffer.swap_and_flatten(a)).float() for a in (buffer.observations, buffer.actions, buffer.advantages)]
    return flat[0], flat[1], flat[2].flatten()


def train(model: OnPolicyAlgorithm) -> dict[str, Any]:
    """Run ``train`` and return what it recorded, see :func:`logged`."""
    model.train()
    return logged(model)


def logged(model: Any) -> dict[str, Any]:
    """What the last ``train`` recorded, statuses by the names that they print as."""
    values = model.logger.name_to_value
    return {key: str(value) if isinstance(value, NamedNumber) else value for key, value in values.items()}


def train_measuring_kl(model: OnPolicyAlgorithm) -> tuple[dict[str, Any], float]:
    """Run ``train`` and return what it recorded, and the joint KL over the rollout's states as measured here."""
    observations = rollout(model).observations
    old = distributions(model.policy, observations)
    log = train(model)
    return log, joint_kl(old, distributions(model.policy, observations))


def names_of(policy: th.nn.Module, parameters: Any) -> set[str]:
    """The names of these parameters of the policy."""
    wanted = {id(parameter) for parameter in parameters}
    return {name for name, parameter in policy.named_parameters() if id(parameter) in wanted}


def snapshot(policy: ActorCriticPolicy) -> dict[str, th.Tensor]:
    """Copies of all parameters and buffers, by name."""
    return {name: tensor.detach().clone() for name, tensor in policy.state_dict().items()}


def parameters_of(model: Any) -> dict[str, th.Tensor]:
    """Copies of all parameters, by name."""
    return {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}


def changed(before: dict[str, th.Tensor], policy: ActorCriticPolicy) -> set[str]:
    """Names of the parameters and buffers that are not bit for bit what they were."""
    after = policy.state_dict()
    return {name for name, tensor in before.items() if not th.equal(tensor, after[name])}


def all_finite(policy: ActorCriticPolicy) -> bool:
    """Whether every parameter and buffer is a finite number."""
    return all(bool(th.isfinite(tensor).all()) for tensor in policy.state_dict().values())
