"""The three operators, and their look-up by name."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_trpo_fvp.distributions import Phi, detach, joint_kl, require_family
from sb3_trpo_fvp.fisher.kronecker import kronecker_preconditioner
from sb3_trpo_fvp.fisher.operator import Average, FisherOperator
from sb3_trpo_fvp.linalg.arguments import require_number
from sb3_trpo_fvp.linalg.autograd import grad_along
from sb3_trpo_fvp.linalg.conjugate_gradient import Preconditioner
from sb3_trpo_fvp.linalg.vectors import flatten, unflatten
from sb3_trpo_fvp.linearization.base import Linearization
from sb3_trpo_fvp.policies import evaluation_mode


class _PolicyFisher(FisherOperator):
    """What the three operators share: they are, or estimate, one and the same matrix."""

    def preconditioner(self, damping: float, average: Average = list) -> Preconditioner | None:
        """Return the Kronecker-factored one where the actor is a plain stack, see :meth:`FisherOperator.preconditioner`."""
        if self.actions is None:
            return None
        return kronecker_preconditioner(self.actor, self.actions, damping, average)


class KLHessian(_PolicyFisher):
    """
    ∇²_θ E_s[KL(π_k(·|s) ‖ π_θ(·|s))] at θ = θ_k, by differentiating (∇KL · v) once more (Pearlmutter, 1994; TRPO,
    appendix C.1).

    The old distribution is detached: only the second argument of the KL is differentiated.

    Parameters as in :class:`FisherOperator`.
    """

    name = "kl_hessian"

    def __init__(self, policy: ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor | None = None, **kwargs: Any):
        super().__init__(policy, observations, actions, **kwargs)
        self._slope: list[th.Tensor] = []
        with th.enable_grad():
            distribution = policy.get_distribution(observations)
            family = require_family(distribution, self.name)
            phi = family.parameters(distribution)
            kl = joint_kl(family, detach(phi), phi)
            if self.parameters:
                self._slope = list(th.autograd.grad(kl, self.parameters, create_graph=True, materialize_grads=True))

    def matvec(self, v: th.Tensor) -> th.Tensor:
        """Return ∇(∇KL · v), see :meth:`FisherOperator.matvec`."""
        if not self.parameters:
            return v.clone()
        # The gradient of Σ_i (∇KL)_i v_i, without forming the sum.
        return flatten(grad_along(self._slope, self.parameters, unflatten(v, self.parameters)))


Factor: TypeAlias = tuple[Linearization, Callable[[Phi], Phi]]
"""J, and the product with M."""


class _FactoredFisher(_PolicyFisher):
    """
    (1/N) Σ over chunks of the states of JᵀMJ.

    Factors are made once and kept. Where that would be too much, autograd's graphs of several chunks or the activations of
    many images, each is made anew for each product instead: that is what bounds the memory.

    Parameters as in :class:`FisherOperator`, and:

    :param chunk_size: states in a chunk, at least 1
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        observations: PyTorchObs,
        actions: th.Tensor | None = None,
        *,
        chunk_size: int | None = None,
        **kwargs: Any,
    ):
        if chunk_size is not None:
            require_number("chunk_size", chunk_size, "[1, ∞)", whole=True)
        super().__init__(policy, observations, actions, **kwargs)
        self.chunk_size = chunk_size
        self._kept = [self.factor(chunk) for chunk in self.actor.chunks] if self.actor.is_small else None

    @abstractmethod
    def factor(self, chunk: slice) -> Factor:
        """
        Linearise on some of the states.

        :param chunk: of :attr:`actor`
        :return: J and the product with M, there
        """

    def matvec(self, v: th.Tensor) -> th.Tensor:
        """Return JᵀMJv / N, see :meth:`FisherOperator.matvec`."""
        total = th.zeros_like(v)
        for jacobian, metric in self._kept or map(self.factor, self.actor.chunks):
            jacobian.vjp(metric(jacobian.jvp(v)), out=total)
        return total.div_(self.actor.size)


class GaussNewton(_FactoredFisher):
    """
    E_s[Jᵀ M J], J the Jacobian of the distribution's parameters φ in θ and M their Fisher matrix (Schraudolph, 2002;
    Martens, 2020, section 9): equal to the KL's Hessian at θ_k, where ∂KL/∂φ = 0, and semi-definite by construction.

    v → Jv → MJv → JᵀMJv: one Jacobian-vector and one vector-Jacobian product.

    Parameters as in :class:`FisherOperator`, and:

    :param chunk_size: do the product on so many states at a time, at least 1; bounds the memory of an autograd graph at
        the price of a forward pass per product. By default all states at once, and plain stacks of layers in chunks that
        fit a processor's cache.
    """

    name = "gauss_newton"

    def factor(self, chunk: slice) -> Factor:
        """Linearise φ and fix M, on some of the states."""
        family, phi = self.actor.phi(chunk, self.name)
        return phi, family.fisher(phi.outputs)


class EmpiricalFisher(_FactoredFisher):
    """
    (1/N) Σ_t ∇log π(a_t|s_t) ∇log π(a_t|s_t)ᵀ over the actions that were taken, the flat-tangent approximation: asks
    of the policy nothing but ``log_prob``.

    An unbiased estimate of the Fisher matrix while the actions are the policy's own at θ_k; of rank N at most.

    Parameters as in :class:`FisherOperator`, ``actions`` required, and:

    :param chunk_size: as in :class:`GaussNewton`
    """

    name = "empirical"
    is_exact = False

    def __init__(self, policy: ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor | None = None, **kwargs: Any):
        if actions is None:
            msg = "`actions` must be the actions taken in `observations` for the empirical Fisher, got None"
            raise ValueError(msg)
        super().__init__(policy, observations, actions, **kwargs)

    def factor(self, chunk: slice) -> Factor:
        """Linearise log π(a|s), on some of the states; M is the identity."""
        assert self.actions is not None
        return self.actor.log_prob(chunk, self.actions), lambda tangent: tangent


FISHER_OPERATORS: dict[str, type[FisherOperator]] = {cls.name: cls for cls in (KLHessian, GaussNewton, EmpiricalFisher)}
"""The operators that ``fisher=`` knows by name."""


def fisher_class(fisher: str | type[FisherOperator]) -> type[FisherOperator]:
    """
    Look an operator class up.

    :param fisher: a name in :data:`FISHER_OPERATORS`, or a class
    :return: the class
    :raises ValueError: for an unknown name or a class that is no :class:`FisherOperator`
    """
    if isinstance(fisher, str) and fisher in FISHER_OPERATORS:
        return FISHER_OPERATORS[fisher]
    if isinstance(fisher, type) and issubclass(fisher, FisherOperator):
        return fisher
    names = ", ".join(f'"{name}"' for name in FISHER_OPERATORS)
    msg = f"`fisher` must be one of {names} or a subclass of FisherOperator, got {fisher!r}"
    raise ValueError(msg)


def fisher_operator(
    policy: ActorCriticPolicy,
    observations: PyTorchObs,
    actions: th.Tensor | None = None,
    *,
    kind: str | type[FisherOperator] = "gauss_newton",
    **kwargs: Any,
) -> FisherOperator:
    """
    Build a Fisher operator for any SB3 actor-critic policy, outside training.

    >>> F = fisher_operator(model.policy, observations)  # doctest: +SKIP
    >>> F @ v, F.to_dense(), F.to_scipy()  # doctest: +SKIP

    :param policy: the policy, taken in evaluation mode at its present parameters
    :param observations: tensor (N, ...), dict of tensors, or the NumPy equivalents
    :param actions: (N, A) as rollout buffers hold them, for ``kind="empirical"``
    :param kind: ``"kl_hessian"``, ``"gauss_newton"``, ``"empirical"`` or a subclass of :class:`FisherOperator`
    :param kwargs: further arguments of the operator
    :return: the undamped operator
    :raises ValueError: for an unknown ``kind``, missing actions, or a distribution whose KL is not known
    """
    cls = fisher_class(kind)
    device = policy.device
    if isinstance(observations, dict):
        observations = {key: th.as_tensor(value, device=device) for key, value in observations.items()}
    else:
        observations = th.as_tensor(observations, device=device)
    if actions is not None:
        actions = th.as_tensor(actions, device=device)
    with evaluation_mode(policy):
        return cls(policy, observations, actions, **kwargs)
