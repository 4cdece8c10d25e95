"""
Linearise what a policy computes: the parameters φ of its action distribution, log π(a|s), or its values.

Plain stacks of layers are written out (:mod:`sb3_trpo_fvp.stacks`); everything else goes through autograd.
"""

from collections.abc import Sequence

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_trpo_fvp.distributions import DistributionFamily, Phi, family_of
from sb3_trpo_fvp.layers import StackLinearization
from sb3_trpo_fvp.linearization import GraphLinearization, Linearization
from sb3_trpo_fvp.stacks import actor_stack


def linearize_distribution(
    policy: ActorCriticPolicy, observations: PyTorchObs, parameters: Sequence[nn.Parameter], what: str
) -> tuple[DistributionFamily, StackLinearization | GraphLinearization]:
    """
    Linearise the parameters φ of the action distribution.

    :param policy: the policy, in the mode in which it acts
    :param observations: n states
    :param parameters: in which to differentiate, P elements
    :param what: the option that asks, for the error message
    :return: the family that φ belongs to, and the derivative of φ
    :raises ValueError: if the geometry of the distribution is not known
    """
    stack = actor_stack(policy, parameters)
    if stack is not None:
        return require_family(policy.action_dist, what), stack.linearize(stack.features(observations))
    with th.enable_grad():
        distribution = policy.get_distribution(observations)
        family = require_family(distribution, what)
        return family, GraphLinearization(family.parameters(distribution), parameters)


def linearize_log_prob(
    policy: ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor, parameters: Sequence[nn.Parameter]
) -> Linearization:
    """
    Linearise log π(a|s), of which the policy need be able to do no more: the rows of J are the scores ∇log π(a_t|s_t).

    :param policy: the policy, in the mode in which it acts
    :param observations: n states
    :param actions: taken there, (n, A) as rollout buffers hold them
    :param parameters: in which to differentiate, P elements
    :return: the derivative of one output of shape (n,)
    """
    stack = actor_stack(policy, parameters)
    family = None if stack is None else family_of(policy.action_dist)
    if stack is not None and family is not None:
        phi = stack.linearize(stack.features(observations))
        score = family.score(phi.outputs, actions)
        if score is not None:
            return _Scores(phi, score)
    with th.enable_grad():
        log_prob = policy.get_distribution(observations).log_prob(prepare_actions(policy, actions))
    return GraphLinearization([log_prob], parameters)


class _Scores(Linearization):
    """The chain rule over log π(a; φ(θ)): the rows of J are uᵀ ∂φ/∂θ, with u = ∇φ log π."""

    def __init__(self, phi: StackLinearization, score: Phi):
        self._phi = phi
        self._score = score
        self.kept_numbers = phi.kept_numbers

    def jvp(self, v: th.Tensor) -> tuple[th.Tensor, ...]:
        tangent = self._phi.jvp(v)
        return (th.stack([(u * t).sum(1) for u, t in zip(self._score, tangent, strict=True)]).sum(0),)

    def vjp(self, u: Sequence[th.Tensor], out: th.Tensor | None = None) -> th.Tensor:
        weight = u[0].unsqueeze(1)
        return self._phi.vjp([score * weight for score in self._score], out)


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


def require_family(distribution: Distribution, what: str) -> DistributionFamily:
    """
    Find the geometry of a distribution, or say how to do without it.

    :param distribution: what ``policy.get_distribution`` returns
    :param what: the option that needs it, for the message
    :return: its family
    :raises ValueError: if its KL is not known
    """
    family = family_of(distribution)
    if family is None:
        msg = (
            f'"{what}" needs the KL divergence of {type(distribution).__name__}, which is not known: describe it with '
            'register_family(), or train with fisher="empirical" and kl_estimator="monte_carlo"'
        )
        raise ValueError(msg)
    return family
