"""
The geometry of action distributions: joint KL, Fisher matrix and score, each as a function of the distribution's
parameters φ.

A :class:`DistributionFamily` sees tensors and not distribution objects: SB3's ``get_distribution`` hands out one
object that the next call overwrites, so an old distribution is kept as its φ, detached.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch as th
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
)
from torch.nn import functional as F

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


_KINKED = (th.distributions.Laplace, th.distributions.Uniform, th.distributions.Pareto)
"""Torch knows a KL for these, but its second derivative where both are equal is not the Fisher matrix."""

_TORCH_FAMILIES: dict[type[th.distributions.Distribution], DistributionFamily] = {
    th.distributions.Normal: NormalFamily(),
    th.distributions.Categorical: CategoricalFamily(),
    th.distributions.Bernoulli: BernoulliFamily(),
}
_SB3_FAMILIES: dict[type[Distribution], DistributionFamily] = {
    DiagGaussianDistribution: NormalFamily(),
    SquashedDiagGaussianDistribution: NormalFamily(),
    StateDependentNoiseDistribution: NormalFamily(),
    CategoricalDistribution: CategoricalFamily(),
    MultiCategoricalDistribution: CategoricalFamily(),
    BernoulliDistribution: BernoulliFamily(),
}
_REGISTERED: dict[type[Distribution], DistributionFamily] = {}


def register_family(distribution_class: type[Distribution], family: DistributionFamily) -> None:
    """
    Teach this package the geometry of an own action distribution.

    Not needed where the distribution's ``distribution`` attribute is a torch distribution with a registered KL, nor
    for ``fisher="empirical"`` with ``kl_estimator="monte_carlo"``, which ask for ``log_prob`` only.

    :param distribution_class: subclass of SB3's ``Distribution``; its own subclasses share the family
    :param family: its geometry
    """
    _REGISTERED[distribution_class] = family


def family_of(distribution: Distribution) -> DistributionFamily | None:
    """
    Find the geometry of an action distribution.

    :param distribution: what ``policy.get_distribution`` returns
    :return: the registered family, else that of its torch distribution, else None: only ``log_prob`` is known
    """
    # By exact class: a subclass of a normal policy, or of Normal, may well not be normal.
    known = registered_family(distribution) or _SB3_FAMILIES.get(type(distribution))
    base = base_distribution(distribution)
    if known is not None or base is None:
        return known
    return _TORCH_FAMILIES.get(type(base)) or TorchFamily.of(base)


def registered_family(distribution: Distribution) -> DistributionFamily | None:
    """
    Look up what :func:`register_family` was given.

    :param distribution: what ``policy.get_distribution`` returns
    :return: the family of its class or nearest base class, None if there is none
    """
    found = (_REGISTERED[cls] for cls in type(distribution).__mro__ if cls in _REGISTERED)
    return next(found, None)


def base_distribution(distribution: Distribution) -> th.distributions.Distribution | None:
    """
    Take the wrappers off the torch distribution of an action distribution that change neither KL nor Fisher.

    These are ``Independent``, whose sum is done by the sum over D, and bijections of the action without parameters of
    their own, as a tanh.

    :param distribution: what ``policy.get_distribution`` returns
    :return: the torch distribution inside, None if there is none
    """
    base: Any = getattr(distribution, "distribution", None)
    while _is_wrapper(base):
        base = base.base_dist
    return base if isinstance(base, th.distributions.Distribution) else None


def _is_wrapper(distribution: object) -> bool:
    if isinstance(distribution, th.distributions.TransformedDistribution):
        return all(map(_is_fixed_bijection, distribution.transforms))
    return isinstance(distribution, th.distributions.Independent)


def _is_fixed_bijection(transform: th.distributions.Transform) -> bool:
    if isinstance(transform, th.distributions.ComposeTransform):
        return all(map(_is_fixed_bijection, transform.parts))
    held = [value for name, value in vars(transform).items() if name != "_cached_x_y"]
    return transform.bijective and not any(isinstance(value, (th.Tensor, th.distributions.Transform)) for value in held)


def _columns(kl: th.Tensor) -> th.Tensor:
    """Give each state one row, whatever the shape of its action: (N,), (N, A), (N, A, B) → (N, D)."""
    return kl.reshape(kl.shape[0], -1)


class _Validation:
    """torch's default, which all threads share: the first that is in need of none switches it off, the last one on again."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.default = True


_validation = _Validation()


@contextmanager
def without_validation() -> Iterator[None]:
    """
    Let torch build distributions of NaN and infinity, so that a step that overflows is refused and not raised.

    Distributions made inside stay unvalidated; the default is put back at the end, by the last thread that is inside.
    """
    distribution: Any = th.distributions.Distribution
    with _validation.lock:
        if _validation.users == 0:
            _validation.default = distribution._validate_args
            distribution.set_default_validate_args(False)
        _validation.users += 1
    try:
        yield
    finally:
        with _validation.lock:
            _validation.users -= 1
            if _validation.users == 0:
                distribution.set_default_validate_args(_validation.default)


def detach(phi: Phi) -> Phi:
    """
    Cut φ off its graph, as the old policy of a KL must be.

    :param phi: parameters of a distribution
    :return: the same values without a graph
    """
    return tuple(tensor.detach() for tensor in phi)


def joint_kl(family: DistributionFamily, old: Phi, new: Phi) -> th.Tensor:
    """
    Mean over the states of KL(old ‖ new) of the joint action (TRPO, equation 12: the old policy comes first).

    :param family: what φ are the parameters of
    :param old: φ of the old policy
    :param new: φ of the new policy
    :return: nats, scalar
    """
    return family.kl(old, new).sum(-1).mean()


def monte_carlo_kl(old_log_prob: th.Tensor, new_log_prob: th.Tensor) -> th.Tensor:
    """
    Estimate KL(old ‖ new) from the actions that the old policy took: (1/M) Σ (log π_old(a|s) − log π_new(a|s)).

    Unbiased, and negative by chance where the KL is below its standard error, about √(2 KL / M).

    :param old_log_prob: log π_old of each action taken, shape (M,)
    :param new_log_prob: log π_new of the same actions, shape (M,)
    :return: nats, scalar
    """
    return (old_log_prob - new_log_prob).mean()


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
