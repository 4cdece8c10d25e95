"""
Linearise what a policy computes: the parameters φ of its action distribution, log π(a|s), or its values.

Plain stacks of layers are written out (:mod:`sb3_trpo_fvp.stacks`); everything else goes through autograd.
"""

from collections.abc import Sequence
from weakref import WeakValueDictionary

import torch as th
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_trpo_fvp.distributions import DistributionFamily, Phi, family_of, require_family
from sb3_trpo_fvp.layers import StackLinearization
from sb3_trpo_fvp.linearization import GraphLinearization, Linearization, pieces
from sb3_trpo_fvp.policies import evaluation_mode, index_observations, num_observations, prepare_actions
from sb3_trpo_fvp.stacks import actor_stack

_MOST_NUMBERS = 2**26
"""Activations that are kept between products: 256 megabytes in single precision."""


class LinearizedActor:
    """
    What an actor computes on N states, and its derivatives at its present parameters: φ(s), or log π(a|s).

    The states are taken piece by piece. A written-out linearisation of a piece is shared for as long as somebody, such as an
    operator, keeps it: an update's gradient, products and preconditioner need one forward pass then. Autograd's graphs are
    made anew for whoever asks.

    :param policy: the policy
    :param observations: N states
    :param parameters: in which to differentiate, P elements
    :param chunk_size: states in a piece, by default as many as fit a processor's cache, or all where graphs are needed
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
        kept_numbers = None
        if self.stack is not None:
            with evaluation_mode(policy):
                kept_numbers = self.stack.linearize(self._features(slice(0, 1))).kept_numbers
        self.pieces = pieces(self.size, kept_numbers, chunk_size)
        self._all_numbers = None if kept_numbers is None else kept_numbers * self.size
        # Whoever needs them for longer keeps them: a gradient alone should not hold the activations of all states.
        self._written_out: WeakValueDictionary[int, StackLinearization] = WeakValueDictionary()

    @property
    def is_written_out(self) -> bool:
        """Whether it is done without autograd."""
        return self.stack is not None

    @property
    def is_small(self) -> bool:
        """Whether linearisations of all pieces can be kept: those of so many images as a rollout has are made anew instead."""
        return len(self.pieces) == 1 or (self._all_numbers is not None and self._all_numbers <= _MOST_NUMBERS)

    @th.no_grad()
    def distribution(self, moved: bool = True) -> Distribution:
        """
        Say how the policy acts in all states, at its parameters as they are now.

        :param moved: False if they are still those of the kept linearisations, whose forward pass is used then; as both do
            the same arithmetic on the same pieces, probabilities agree to the last bit as long as the parameters do
        :return: π(·|s) in N states, the policy's own object
        """
        with evaluation_mode(self.policy):
            if self.stack is None:
                return self.policy.get_distribution(self.observations)
            heads = [
                self.stack.forward(self._features(piece)) if moved else self.written_out(piece).head for piece in self.pieces
            ]
        head = heads[0] if len(heads) == 1 else th.cat(heads)
        distribution = self.policy.action_dist
        if isinstance(distribution, DiagGaussianDistribution):
            return distribution.proba_distribution(head, self.policy.log_std)
        return distribution.proba_distribution(head)

    def phi(self, piece: slice, what: str) -> tuple[DistributionFamily, StackLinearization | GraphLinearization]:
        """
        Linearise the parameters φ of the action distribution.

        :param piece: one of :attr:`pieces`, of n states
        :param what: the option that asks, for the error message
        :return: the family that φ belongs to, and the derivative of φ
        :raises ValueError: if the geometry of the distribution is not known
        """
        if self.stack is not None:
            return require_family(self.policy.action_dist, what), self.written_out(piece)
        with evaluation_mode(self.policy), th.enable_grad():
            distribution = self.policy.get_distribution(index_observations(self.observations, piece))
            family = require_family(distribution, what)
            return family, GraphLinearization(family.parameters(distribution), self.parameters)

    def log_prob(self, piece: slice, actions: th.Tensor) -> Linearization:
        """
        Linearise log π(a|s), of which the policy need be able to do no more: the rows of J are the scores ∇log π(a_t|s_t).

        :param piece: one of :attr:`pieces`, of n states
        :param actions: taken in all N states, (N, A) as rollout buffers hold them
        :return: the derivative of one output of shape (n,)
        """
        phi = self.written_out(piece) if self.is_written_out else None  # held, so that it is not made a second time
        score = self.score(piece, actions)
        if phi is not None and score is not None:
            return _Scores(phi, score)
        with evaluation_mode(self.policy), th.enable_grad():
            distribution = self.policy.get_distribution(index_observations(self.observations, piece))
            log_prob = distribution.log_prob(prepare_actions(self.policy, actions[piece]))
        return GraphLinearization([log_prob], self.parameters)

    def score(self, piece: slice, actions: th.Tensor) -> Phi | None:
        """
        Differentiate log π(a; φ) in φ.

        :param piece: one of :attr:`pieces`, of n states
        :param actions: taken in all N states, (N, A) as rollout buffers hold them
        :return: shaped as φ; None where autograd must do it
        """
        family = family_of(self.policy.action_dist) if self.is_written_out else None
        return None if family is None else family.score(self.written_out(piece).outputs, actions[piece])

    def written_out(self, piece: slice) -> StackLinearization:
        """
        Linearise φ without autograd, or hand out the linearisation that somebody keeps.

        :param piece: one of :attr:`pieces`
        :return: the derivative of φ; only where :attr:`is_written_out`
        """
        assert self.stack is not None
        linearization = self._written_out.get(piece.start)
        if linearization is None:
            with evaluation_mode(self.policy):
                linearization = self.stack.linearize(self._features(piece))
            self._written_out[piece.start] = linearization
        return linearization

    def _features(self, piece: slice) -> th.Tensor:
        assert self.stack is not None
        return self.stack.features(index_observations(self.observations, piece))


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
