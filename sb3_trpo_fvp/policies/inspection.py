"""What an update needs to know of an SB3 policy: whose parameters are whose, modes, rows, the form of its actions."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn


@dataclass(frozen=True)
class ParameterSplit:
    """
    The trainable parameters of a policy, told apart by what is computed from them and not by their names.

    :param actor: what the action distribution depends on, in the order of ``policy.parameters()``; a parameter
        that the values depend on too (a shared features extractor) is the actor's
    :param critic: what the values depend on and the action distribution does not
    :param actor_modules: the modules called on the way to the action distribution
    """

    actor: tuple[nn.Parameter, ...]
    critic: tuple[nn.Parameter, ...]
    actor_modules: frozenset[nn.Module]


def split_parameters(policy: ActorCriticPolicy, observations: PyTorchObs) -> ParameterSplit:
    """
    Tell the actor's parameters from the critic's by walking the autograd graphs of both outputs.

    Neither a random number nor a running statistic is consumed: the forward pass is done in evaluation mode.

    :param policy: an actor-critic policy
    :param observations: any observations of it, with a batch dimension; the first one is looked at
    :return: the split; parameters with ``requires_grad=False`` are in neither part
    """
    one = index_observations(observations, slice(0, 1))
    called: set[nn.Module] = set()
    handles = [
        module.register_forward_pre_hook(lambda module, _: called.add(module))
        for module in policy.modules()
        if module is not policy
    ]
    try:
        with evaluation_mode(policy), th.enable_grad():
            distribution = policy.get_distribution(one)
            actor_ids = _leaf_ids(_tensors_of(distribution))
            actor_modules = frozenset(called)
            critic_ids = _leaf_ids([policy.predict_values(one)])
    finally:
        for handle in handles:
            handle.remove()
    trainable = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    return ParameterSplit(
        actor=tuple(parameter for parameter in trainable if id(parameter) in actor_ids),
        critic=tuple(parameter for parameter in trainable if id(parameter) in critic_ids - actor_ids),
        actor_modules=actor_modules,
    )


def _tensors_of(value: object) -> Iterator[th.Tensor]:
    """Every tensor that a distribution object holds, however it is nested."""
    if isinstance(value, th.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_of(item)
    elif isinstance(value, dict):
        yield from _tensors_of(list(value.values()))
    elif isinstance(value, (Distribution, th.distributions.Distribution, th.distributions.Transform)):
        yield from _tensors_of(vars(value))


def _leaf_ids(outputs: Iterable[th.Tensor]) -> set[int]:
    """``id`` of every leaf tensor that the outputs' autograd graphs reach."""
    leaves = set()
    stack = []
    for output in outputs:
        if output.grad_fn is not None:
            stack.append(output.grad_fn)
        elif output.requires_grad:
            leaves.add(id(output))
    seen = set(stack)
    while stack:
        node = stack.pop()
        variable = getattr(node, "variable", None)
        if variable is not None:
            leaves.add(id(variable))
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return leaves


def has_methods_of_sb3(policy: ActorCriticPolicy, methods: Iterable[str]) -> bool:
    """
    Ask whether what a policy does may be known without calling it.

    :param policy: the policy
    :param methods: names of methods of ``ActorCriticPolicy``
    :return: whether they are SB3's own, for the class and for the instance
    """
    cls = type(policy)
    return all(getattr(cls, name) is getattr(ActorCriticPolicy, name) and name not in vars(policy) for name in methods)


@contextmanager
def evaluation_mode(policy: nn.Module, but_for: Iterable[nn.Module] = ()) -> Iterator[None]:
    """
    Put every module in evaluation mode, and each back in its own mode afterwards.

    The actor step is done in the mode in which the rollout's actions were drawn: with dropout or batch statistics
    redrawn between two evaluations, the KL of a zero step would not be zero.

    :param policy: the policy
    :param but_for: modules to put in training mode instead
    """
    wanted = dict.fromkeys(policy.modules(), False) | dict.fromkeys(but_for, True)
    # Assigning an attribute of a module is slow, and most are in the wanted mode already.
    changed = [module for module, mode in wanted.items() if module.training is not mode]
    for module in changed:
        module.training = wanted[module]
    try:
        yield
    finally:
        for module in changed:
            module.training = not wanted[module]


def index_observations(observations: PyTorchObs, index: slice | th.Tensor) -> PyTorchObs:
    """
    Select rows of a batch of observations.

    :param observations: tensor (N, ...) or a dict of such tensors
    :param index: a slice or an integer tensor
    :return: observations of the same structure
    """
    if isinstance(observations, dict):
        return {key: value[index] for key, value in observations.items()}
    return observations[index]


def num_observations(observations: PyTorchObs) -> int:
    """
    Count the rows of a batch of observations.

    :param observations: tensor (N, ...) or a dict of such tensors
    :return: N
    """
    first = next(iter(observations.values())) if isinstance(observations, dict) else observations
    return int(first.shape[0])


def prepare_actions(policy: ActorCriticPolicy, actions: th.Tensor) -> th.Tensor:
    """
    Give actions the form that ``Distribution.log_prob`` takes.

    :param policy: whose actions
    :param actions: (N, A) as rollout buffers hold them
    :return: (N,) integers for Discrete spaces, numbers of the policy's precision for MultiBinary, else unchanged
    """
    if isinstance(policy.action_space, spaces.Discrete):
        return actions.long().flatten()
    if isinstance(policy.action_space, spaces.MultiBinary):
        # Buffers hold 8-bit integers; torch's Bernoulli wants floating point and takes its result's precision from it.
        return actions.to(next(policy.parameters()).dtype)
    return actions
