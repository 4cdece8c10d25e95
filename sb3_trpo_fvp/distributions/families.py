"""
The geometry of action distributions: joint KL, Fisher matrix and score, each as a function of the distribution's
parameters φ.

A :class:`DistributionFamily` sees tensors and not distribution objects: SB3's ``get_distribution`` hands out one
object that the next call overwrites, so an old distribution is kept as its φ, detached.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch as th
from stable_baselines3.common.distributions import (
    Distribution,
)
from torch.nn import functional as F

from sb3_trpo_fvp.distributions.unwrapping import base_distribution
from sb3_trpo_fvp.linalg.autograd import grad_along

Phi: TypeAlias = tuple[th.Tensor, ...]
"""The parameters of N distributions: tensors of shape (N, ...)."""


class DistributionFamily(ABC):
    """
    What a trust region needs to know about a family of action distributions.

    M(φ) is the Fisher matrix of one state's distribution in the parameters φ, M = E_a[∇φ log π ∇φ log πᵀ]; the Fisher
    matrix of a policy with Jacobian J = ∂φ/∂θ is E_s[Jᵀ M J].
    """

    @abstractmethod
    def parameters(self, distribution: Distribution) -> Phi:
        """
        Read φ off a distribution, with its autograd graph.

        :param distribution: what ``policy.get_distribution`` returns
        :return: φ, each tensor (N, ...)
        """

    @abstractmethod
    def kl(self, old: Phi, new: Phi) -> th.Tensor:
        """
        KL(old ‖ new) of each state, one column for each independent factor of the action.

        :param old: φ of the old distributions
        :param new: φ of the new distributions
        :return: nats, shape (N, D); the joint KL is the sum over D
        """

    @abstractmethod
    def fisher(self, phi: Phi) -> Callable[[Phi], Phi]:
        """
        Fix φ and return the product with the Fisher matrix of each state.

        :param phi: where
        :return: u → M(φ)u; both shaped as φ
        """

    def score(self, phi: Phi, actions: th.Tensor) -> Phi | None:
        """
        ∇φ log π(a), where it has a closed form; used by the fast paths only.

        :param phi: where
        :param actions: one action for each state, (N, A) floating point as rollout buffers hold them, a single column for
            Discrete spaces; of a bijection of the action, the action before it
        :return: shaped as φ, or None if there is no closed form
        """
        return None


class NormalFamily(DistributionFamily):
    """
    Independent normals, φ = (μ, σ), both (N, A): diagonal Gaussian and gSDE policies.

    M = diag(1/σ², 2/σ²). A bijection of the action (squashed gSDE) changes neither KL nor Fisher.
    """

    def parameters(self, distribution: Distribution) -> Phi:
        """Return (μ, σ), see :meth:`DistributionFamily.parameters`."""
        normal = base_distribution(distribution)
        assert isinstance(normal, th.distributions.Normal)
        return normal.loc, normal.scale

    def kl(self, old: Phi, new: Phi) -> th.Tensor:
        """Return log(σ'/σ) + (σ² + (μ − μ')²) / 2σ'² − ½, see :meth:`DistributionFamily.kl`."""
        (mean, std), (new_mean, new_std) = old, new
        variance_ratio = (std / new_std).square()
        return _columns(0.5 * (variance_ratio - 1.0 - variance_ratio.log() + ((mean - new_mean) / new_std).square()))

    def fisher(self, phi: Phi) -> Callable[[Phi], Phi]:
        """Return u → (u_μ / σ², 2 u_σ / σ²), see :meth:`DistributionFamily.fisher`."""
        precision = phi[1].square().reciprocal()
        return lambda u: (u[0] * precision, 2.0 * u[1] * precision)

    def score(self, phi: Phi, actions: th.Tensor) -> Phi:
        """Return ((a − μ)/σ², ((a − μ)²/σ² − 1)/σ), see :meth:`DistributionFamily.score`."""
        mean, std = phi
        z = (actions - mean) / std
        return z / std, (z.square() - 1.0) / std


class CategoricalFamily(DistributionFamily):
    """
    One or several independent categoricals, φ = logits of each, (N, K_i), defined up to a constant.

    M = diag(p) − ppᵀ. The KL of several is returned summed, D = 1, as SB3 itself does for MultiDiscrete.
    """

    def parameters(self, distribution: Distribution) -> Phi:
        """Return the logits of each factor, see :meth:`DistributionFamily.parameters`."""
        factors: Any = distribution.distribution
        if not isinstance(factors, list):
            factors = [base_distribution(distribution)]
        return tuple(factor.logits for factor in factors)

    def kl(self, old: Phi, new: Phi) -> th.Tensor:
        """Return Σ p log(p/p'), see :meth:`DistributionFamily.kl`."""
        total = old[0].new_zeros(old[0].shape[0], 1)
        for logits, new_logits in zip(old, new, strict=True):
            log_p, log_q = F.log_softmax(logits, -1), F.log_softmax(new_logits, -1)
            p = log_p.exp()
            # An action that is never taken (masked with a logit of −∞) adds 0, where 0 · (∞ − ∞) would be NaN.
            never = p == 0.0
            terms = p * (log_p.masked_fill(never, 0.0) - log_q.masked_fill(never, 0.0))
            total = total + _columns(terms).sum(-1, keepdim=True)
        return total

    def fisher(self, phi: Phi) -> Callable[[Phi], Phi]:
        """Return u → p ∘ (u − pᵀu), see :meth:`DistributionFamily.fisher`."""
        probabilities = [F.softmax(logits, -1) for logits in phi]
        return lambda tangent: tuple(
            p * (u - (p * u).sum(-1, keepdim=True)) for p, u in zip(probabilities, tangent, strict=True)
        )

    def score(self, phi: Phi, actions: th.Tensor) -> Phi:
        """Return onehot(a) − p, see :meth:`DistributionFamily.score`."""
        columns = actions.reshape(phi[0].shape[0], -1).long().unbind(1)
        return tuple(
            F.one_hot(column, logits.shape[-1]).to(logits) - F.softmax(logits, -1)
            for logits, column in zip(phi, columns, strict=True)
        )


class BernoulliFamily(DistributionFamily):
    """Independent Bernoullis, φ = logits (N, A), M = diag(p (1 − p))."""

    def parameters(self, distribution: Distribution) -> Phi:
        """Return the logits, see :meth:`DistributionFamily.parameters`."""
        bernoulli = base_distribution(distribution)
        assert isinstance(bernoulli, th.distributions.Bernoulli)
        return (bernoulli.logits,)

    def kl(self, old: Phi, new: Phi) -> th.Tensor:
        """Return p log(p/p') + (1−p) log((1−p)/(1−p')), see :meth:`DistributionFamily.kl`."""
        (z,), (new_z,) = old, new
        taken = th.sigmoid(z) * (F.logsigmoid(z) - F.logsigmoid(new_z))
        return _columns(taken + th.sigmoid(-z) * (F.logsigmoid(-z) - F.logsigmoid(-new_z)))

    def fisher(self, phi: Phi) -> Callable[[Phi], Phi]:
        """Return u → p (1 − p) u, see :meth:`DistributionFamily.fisher`."""
        p = th.sigmoid(phi[0])
        variance = p * (1.0 - p)
        return lambda u: (variance * u[0],)

    def score(self, phi: Phi, actions: th.Tensor) -> Phi:
        """Return a − p, see :meth:`DistributionFamily.score`."""
        return (actions - th.sigmoid(phi[0]),)


_KINKED = (th.distributions.Laplace, th.distributions.Uniform, th.distributions.Pareto)
"""Torch knows a KL for these, but its second derivative where both are equal is not the Fisher matrix."""


class TorchFamily(DistributionFamily):
    """
    Any ``torch.distributions`` family with a registered KL: φ are its constructor's tensors, M the Hessian of the KL.

    For SB3 distributions of one's own whose ``distribution`` attribute is a torch distribution, a Beta for example.
    The KL is differentiated twice in φ, state by state, which costs little beside the network.

    :param torch_class: class of the torch distribution
    :param names: its constructor's keyword arguments, in the order of φ
    """

    def __init__(self, torch_class: type[th.distributions.Distribution], names: Sequence[str]):
        self.torch_class = torch_class
        self.names = tuple(names)

    @classmethod
    def of(cls, distribution: th.distributions.Distribution) -> "TorchFamily | None":
        """
        Find the family of a torch distribution.

        :param distribution: for example ``Beta(a, b)``
        :return: its family, or None if torch knows no smooth KL for it or not how to rebuild it from tensors
        """
        if isinstance(distribution, _KINKED):
            return None
        constraints = list(distribution.arg_constraints)
        # What was passed is an instance attribute, but for classes that keep an inner distribution, as Beta does.
        given = [name for name in constraints if isinstance(vars(distribution).get(name), th.Tensor)]
        names = given or [name for name in constraints if isinstance(getattr(distribution, name, None), th.Tensor)]
        for synonyms in (("logits", "probs"), ("scale_tril", "covariance_matrix", "precision_matrix")):
            same = [name for name in synonyms if name in names]
            names = [name for name in names if name not in same[1:]]
        family = cls(type(distribution), names)
        try:
            phi = tuple(getattr(distribution, name).detach() for name in names)
            family.kl(phi, phi)
        except (NotImplementedError, TypeError, ValueError):
            return None
        return family if names else None

    def parameters(self, distribution: Distribution) -> Phi:
        """Return the tensors that the torch distribution is built from, see :meth:`DistributionFamily.parameters`."""
        base = base_distribution(distribution)
        return tuple(getattr(base, name) for name in self.names)

    def kl(self, old: Phi, new: Phi) -> th.Tensor:
        """Return torch's registered KL, see :meth:`DistributionFamily.kl`."""
        return _columns(th.distributions.kl_divergence(self._build(old), self._build(new)))

    def fisher(self, phi: Phi) -> Callable[[Phi], Phi]:
        """Return u → (Hessian of the KL in its second argument) u, see :meth:`DistributionFamily.fisher`."""
        old = detach(phi)
        new = tuple(tensor.clone().requires_grad_() for tensor in old)
        with th.enable_grad():
            slope = th.autograd.grad(self.kl(old, new).sum(), new, create_graph=True, materialize_grads=True)

        # What the KL does not depend on smoothly, a count of trials say, has a slope without a graph.
        return lambda u: grad_along(slope, new, u)

    def _build(self, phi: Phi) -> th.distributions.Distribution:
        arguments: dict[str, Any] = dict(zip(self.names, phi, strict=True))
        return self.torch_class(**arguments, validate_args=False)


def _columns(kl: th.Tensor) -> th.Tensor:
    """Give each state one row, whatever the shape of its action: (N,), (N, A), (N, A, B) → (N, D)."""
    return kl.reshape(kl.shape[0], -1)


def detach(phi: Phi) -> Phi:
    """
    Cut φ off its graph, as the old policy of a KL must be.

    :param phi: parameters of a distribution
    :return: the same values without a graph
    """
    return tuple(tensor.detach() for tensor in phi)
