"""The surrogate and the KL that constrains it: what a policy promises, and how far it is from the one before."""

import math
from dataclasses import dataclass

import torch as th
from stable_baselines3.common.distributions import Distribution

from sb3_trpo_fvp.distributed import ALONE, Communicator
from sb3_trpo_fvp.distributions import Phi, family_of, joint_kl, monte_carlo_kl, require_family
from sb3_trpo_fvp.linalg.vectors import flatten
from sb3_trpo_fvp.linearization.actor import LinearizedActor
from sb3_trpo_fvp.policies import prepare_actions


@dataclass(frozen=True)
class Evaluation:
    """
    Surrogate and KL of the policy as it is now, against the policy as it was.

    :param improvement: mean(Â (π/π_k − 1))
    :param kl: mean joint KL(π_k ‖ π), nats, NaN where not known
    :param kl_monte_carlo: its estimate from the actions taken
    :param constraint: what is held against the bound
    :param entropy: mean entropy of π, nats
    """

    improvement: float
    kl: float
    kl_monte_carlo: float
    constraint: float
    entropy: float

    @property
    def is_finite(self) -> bool:
        """Whether the numbers that decide acceptance are finite."""
        return math.isfinite(self.improvement) and math.isfinite(self.constraint)


class SurrogateProblem:
    """
    Maximise mean(Â · π_θ(a|s)/π_k(a|s)) subject to mean_s KL(π_k(·|s) ‖ π_θ(·|s)) ≤ δ (TRPO, equation 14).

    π_k is the policy at construction. Probabilities of the old policy are computed here and not taken from the rollout,
    so that ratio and KL of a zero step are exactly 1 and 0.

    :param actor: the policy at N states
    :param actions: taken there, (N, A) as rollout buffers hold them
    :param advantages: Â, shape (N,)
    :param weights: how much each action counts in what is estimated from actions, shape (N,): the ratio of π_k to the policy
        that took it; all alike by default
    :param kl_reduction: ``"sum"`` over action dimensions, the joint KL, or their ``"mean"``
    :param kl_estimator: ``"analytic"`` or ``"monte_carlo"``: which KL is held against the bound
    :param comm: who else has states of this rollout: every mean here is over the states of all
    """

    def __init__(
        self,
        actor: LinearizedActor,
        actions: th.Tensor,
        advantages: th.Tensor,
        *,
        weights: th.Tensor | None = None,
        kl_reduction: str = "sum",
        kl_estimator: str = "analytic",
        comm: Communicator = ALONE,
    ):
        self.actor = actor
        self.comm = comm
        self._raw_actions = actions
        self.actions = prepare_actions(actor.policy, actions)
        with th.no_grad():
            distribution = actor.distribution(moved=False)
            self._old_log_prob = distribution.log_prob(self.actions)
            self._weights = None if weights is None else weights.to(self._old_log_prob.dtype)
            old_entropy = mean_entropy(distribution, self._old_log_prob, self._weights)
            self.advantages = advantages.to(self._old_log_prob.dtype)
            self._family = family_of(distribution)
            if kl_estimator == "analytic" or kl_reduction == "mean":
                require_family(distribution, kl_estimator if kl_reduction == "sum" else 'kl_reduction="mean"')
            self._old_phi = () if self._family is None else _double(self._family.parameters(distribution))
            self.kl_scale = 1.0
            if kl_reduction == "mean" and self._family is not None:
                self.kl_scale = 1.0 / self._family.kl(self._old_phi, self._old_phi).shape[1]
        self._analytic = kl_estimator == "analytic"
        old = comm.mean([th.stack([self.advantages.double().mean(), old_entropy.double()])], len(advantages))
        self.old_objective, self.old_entropy = old[0].tolist()

    def gradient(self) -> th.Tensor:
        """
        Differentiate the surrogate at π_k: g = mean(Â ∇log π(a|s)).

        :return: g, shape (P,)
        """
        actor = self.actor
        # At π = π_k the ratio is 1, and the gradient is that of log π, weighted.
        g = flatten([th.zeros_like(parameter) for parameter in actor.parameters], [self.advantages])
        for chunk in actor.chunks:
            actor.log_prob(chunk, self._raw_actions).vjp([self.advantages[chunk] / actor.size], out=g)
        return self.comm.mean([g], actor.size)[0]

    @th.no_grad()
    def evaluate(self) -> Evaluation:
        """
        Measure the policy as it is now.

        :return: surrogate and KL against the old policy
        """
        distribution = self.actor.distribution()
        log_prob = distribution.log_prob(self.actions)
        # expm1 keeps the digits of a small improvement that a difference of two surrogates would lose.
        improvement = (self.advantages.double() * th.expm1(log_prob - self._old_log_prob)).mean()
        sampled = monte_carlo_kl(self._old_log_prob, log_prob, self._weights)
        kl = sampled.new_tensor(math.nan)
        if self._family is not None:
            kl = joint_kl(self._family, self._old_phi, _double(self._family.parameters(distribution)))
        entropy = mean_entropy(distribution, log_prob, self._weights)
        means = th.stack([number.double() for number in (improvement, kl, sampled, entropy)])
        numbers = self.comm.mean([means], len(self.advantages))[0].tolist()
        constraint = self.kl_scale * (numbers[1] if self._analytic else numbers[2])
        return Evaluation(numbers[0], numbers[1], numbers[2], constraint, numbers[3])


def _double(phi: Phi) -> Phi:
    """Close distributions differ in their last digits: in single precision a small KL would be mostly rounding."""
    return tuple(tensor.detach().double() for tensor in phi)


def mean_entropy(distribution: Distribution, log_prob: th.Tensor, weights: th.Tensor | None = None) -> th.Tensor:
    """
    Average the entropy over states; where it has no closed form (squashed policies), the actions taken estimate it.

    :param distribution: the policy's
    :param log_prob: log-probabilities of the actions taken, shape (N,)
    :param weights: how much each action counts, shape (N,); all alike by default
    :return: nats, scalar
    """
    entropy = distribution.entropy()
    if entropy is None:
        entropy = -log_prob if weights is None else -weights * log_prob
    return entropy.mean()
