"""
Linearise what a policy's actor computes: the parameters φ of its action distribution, or log π(a|s).

Plain stacks of layers are written out (:mod:`sb3_trpo_fvp.linearization.stack`); everything else goes through autograd.
"""

from collections.abc import Sequence

import torch as th
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_trpo_fvp.distributions import DistributionFamily, Phi, family_of, require_family
from sb3_trpo_fvp.linearization.autograd import GraphLinearization
from sb3_trpo_fvp.linearization.base import Linearization, chunks
from sb3_trpo_fvp.linearization.recognition import actor_stack
from sb3_trpo_fvp.linearization.stack import StackLinearization
from sb3_trpo_fvp.policies import evaluation_mode, index_observations, num_observations, prepare_actions

_MOST_ACTIVATIONS = 2**26
"""Activations that are kept between products: 256 megabytes in single precision."""


class LinearizedActor:
    """
    What an actor computes on N states, and its derivatives at its present parameters: φ(s), or log π(a|s).

    The states are taken chunk by chunk. Written-out linearisations are made once and shared by all who ask, as long as those
    of all chunks have room: an update's gradient, products and preconditioner need one forward pass then. Autograd's graphs
    are made anew for whoever asks.

    :param policy: the policy
    :param observations: N states
    :param parameters: in which to differentiate, P elements
    :param chunk_size: states in a chunk, by default as many as fit a processor's cache, or all where graphs are needed
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        observations: PyTorchObs,
        parameters: Sequence[nn.Parameter],
        chunk_size: int | None = None,
    ):
        self.policy = policy
        self.observations = observations
        self.parameters = parameters
        self.size = num_observations(observations)
        self.stack = actor_stack(policy, parameters)
        num_activations = None
        if self.stack is not None:
            with evaluation_mode(policy):
                num_activations = self.stack.linearize(self._features(slice(0, 1))).num_activations
        self.chunks = chunks(self.size, num_activations, chunk_size)
        self._num_activations = None if num_activations is None else num_activations * self.size
        self._linearizations: dict[int, StackLinearization] = {}

    @property
    def is_stack(self) -> bool:
        """Whether it is differentiated layer by layer, without autograd."""
        return self.stack is not None

    @property
    def is_small(self) -> bool:
        """Whether linearisations of all chunks can be kept: those of so many images as a rollout has are made anew instead."""
        return len(self.chunks) == 1 or (self._num_activations is not None and self._num_activations <= _MOST_ACTIVATIONS)

    @th.no_grad()
    def distribution(self, moved: bool = True) -> Distribution:
        """
        Say how the policy acts in all states, at its parameters as they are now.

        :param moved: False if they are still those of the linearisations, whose forward pass is used then; as both do the
            same arithmetic on the same chunks, probabilities agree to the last bit as long as the parameters do
        :return: π(·|s) in N states, the policy's own object
        """
        with evaluation_mode(self.policy):
            if self.stack is None:
                return self.policy.get_distribution(self.observations)
            heads = [
                self.stack.forward(self._features(chunk)) if moved else self.linearize(chunk).head for chunk in self.chunks
            ]
        head = heads[0] if len(heads) == 1 else th.cat(heads)
        distribution = self.policy.action_dist
        if isinstance(distribution, DiagGaussianDistribution):
            return distribution.proba_distribution(head, self.policy.log_std)
        return distribution.proba_distribution(head)

    def phi(self, chunk: slice, what: str) -> tuple[DistributionFamily, StackLinearization | GraphLinearization]:
        """
        Linearise the parameters φ of the action distribution.

        :param chunk: one of :attr:`chunks`, of n states
        :param what: the option that asks, for the error message
        :return: the family that φ belongs to, and the derivative of φ
        :raises ValueError: if the geometry of the distribution is not known
        """
        if self.is_stack:
            return require_family(self.policy.action_dist, what), self.linearize(chunk)
        with evaluation_mode(self.policy), th.enable_grad():
            distribution = self.policy.get_distribution(index_observations(self.observations, chunk))
            family = require_family(distribution, what)
            return family, GraphLinearization(family.parameters(distribution), self.parameters)

    def log_prob(self, chunk: slice, actions: th.Tensor) -> Linearization:
        """
        Linearise log π(a|s), of which the policy need be able to do no more: the rows of J are the scores ∇log π(a_t|s_t).

        :param chunk: one of :attr:`chunks`, of n states
        :param actions: taken in all N states, (N, A) as rollout buffers hold them
        :return: the derivative of one output of shape (n,)
        """
        if self.is_stack:
            phi = self.linearize(chunk)
            score = self.score(phi, actions[chunk])
            if score is not None:
                return _Scores(phi, score)
        with evaluation_mode(self.policy), th.enable_grad():
            distribution = self.policy.get_distribution(index_observations(self.observations, chunk))
            log_prob = distribution.log_prob(prepare_actions(self.policy, actions[chunk]))
        return GraphLinearization([log_prob], self.parameters)

    def score(self, phi: StackLinearization, actions: th.Tensor) -> Phi | None:
        """
        Differentiate log π(a; φ) in φ.

        :param phi: the linearisation of a chunk
        :param actions: taken in its n states, (n, A) as rollout buffers hold them
        :return: shaped as φ; None where the distribution's family has no closed form
        """
        family = family_of(self.policy.action_dist)
        return None if family is None else family.score(phi.outputs, actions)

    def linearize(self, chunk: slice) -> StackLinearization:
        """
        Linearise φ layer by layer, or hand out the linearisation that is kept.

        :param chunk: one of :attr:`chunks`
        :return: the derivative of φ; only where the actor :attr:`is_stack`
        """
        assert self.stack is not None
        if chunk.start in self._linearizations:
            return self._linearizations[chunk.start]
        with evaluation_mode(self.policy):
            linearization = self.stack.linearize(self._features(chunk))
        if self.is_small:
            self._linearizations[chunk.start] = linearization
        return linearization

    def _features(self, chunk: slice) -> th.Tensor:
        assert self.stack is not None
        return self.stack.features(index_observations(self.observations, chunk))


class _Scores(Linearization):
    """The chain rule over log π(a; φ(θ)): the rows of J are uᵀ ∂φ/∂θ, with u = ∇φ log π."""

    def __init__(self, phi: StackLinearization, score: Phi):
        self._phi = phi
        self._score = score
        self.num_activations = phi.num_activations

    def jvp(self, v: th.Tensor) -> tuple[th.Tensor, ...]:
        tangent = self._phi.jvp(v)
        return (th.stack([(u * t).sum(1) for u, t in zip(self._score, tangent, strict=True)]).sum(0),)

    def vjp(self, u: Sequence[th.Tensor], out: th.Tensor | None = None) -> th.Tensor:
        weight = u[0].unsqueeze(1)
        return self._phi.vjp([score * weight for score in self._score], out)
