"""What every Fisher operator is: a matrix known by its products."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_trpo_fvp.linalg.conjugate_gradient import Preconditioner
from sb3_trpo_fvp.linearization.actor import LinearizedActor
from sb3_trpo_fvp.policies import num_observations, split_parameters

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


Average: TypeAlias = Callable[[Sequence[th.Tensor]], Sequence[th.Tensor]]
"""Averages over states, of this process to those of all."""


class FisherOperator(ABC):
    """
    A symmetric positive semi-definite (P, P) matrix over the actor's parameters, known by its products.

    To try one of your own, subclass, implement :meth:`matvec` and pass the class as ``TRPO(..., fisher=MyOperator)``;
    what it needs beyond the arguments below comes from ``fisher_kwargs``. ``check_fisher`` says which promise it breaks
    (docs/own-operators.md).

    :param policy: any SB3 actor-critic policy; its parameters are the point at which the matrix is taken
    :param observations: tensor (N, ...) or dict of tensors, N states
    :param actions: the actions taken there, (N, A) as rollout buffers hold them; only some operators need them
    :param parameters: what to differentiate in; by default all that the action distribution depends on
    """

    name: ClassVar[str] = ""
    """What ``fisher=`` calls it, empty for operators that are passed as a class."""
    is_exact: ClassVar[bool] = True
    """Whether it is meant to be the Fisher matrix itself; an approximation says False, and ``check_fisher`` tells how good."""
    chunk_size: int | None = None
    """States that are linearised at a time, None for as many as suit the network."""

    def __init__(
        self,
        policy: ActorCriticPolicy,
        observations: PyTorchObs,
        actions: th.Tensor | None = None,
        *,
        parameters: Sequence[nn.Parameter] | None = None,
    ):
        if num_observations(observations) < 1:
            msg = "`observations` must hold at least 1 state, got 0"
            raise ValueError(msg)
        self.policy = policy
        self.observations = observations
        self.actions = actions
        self.parameters: tuple[nn.Parameter, ...] = tuple(
            split_parameters(policy, observations).actor if parameters is None else parameters
        )
        size = sum(parameter.numel() for parameter in self.parameters)
        self.shape = (size, size)

    @cached_property
    def actor(self) -> LinearizedActor:
        """The policy, linearised in these states; the surrogate's gradient is taken from it too."""
        return LinearizedActor(self.policy, self.observations, self.parameters, self.chunk_size)

    @abstractmethod
    def matvec(self, v: th.Tensor) -> th.Tensor:
        """
        Multiply: v → Fv.

        :param v: shape (P,), in the order of :attr:`parameters`
        :return: shape (P,)
        """

    def preconditioner(self, damping: float, average: Average = list) -> Preconditioner | None:
        """
        Approximate (F + λI)⁻¹ for conjugate gradients; an operator of one's own has none unless it defines it.

        :param damping: λ ≥ 0
        :param average: what puts averages over states of several processes together
        :return: r → M⁻¹r, shapes (P,) → (P,), or None
        """
        return None

    def __matmul__(self, v: th.Tensor) -> th.Tensor:
        if v.shape != (self.shape[1],):
            msg = f"`v` must have shape ({self.shape[1]},), got {tuple(v.shape)}"
            raise ValueError(msg)
        return self.matvec(v)

    @property
    def dtype(self) -> th.dtype:
        """Of the parameters, and so of the vectors multiplied."""
        return self.parameters[0].dtype if self.parameters else th.get_default_dtype()

    @property
    def device(self) -> th.device:
        """Of the parameters, and so of the vectors multiplied."""
        return self.parameters[0].device if self.parameters else th.device("cpu")

    def to_dense(self) -> th.Tensor:
        """
        Form the matrix column by column, the loop that a Fisher-vector product exists to avoid: for study and tests.

        :return: shape (P, P), by P products
        """
        identity = th.eye(self.shape[0], dtype=self.dtype, device=self.device)
        columns = [self.matvec(column) for column in identity]
        return th.stack(columns, dim=1) if columns else identity

    def to_scipy(self) -> "LinearOperator":
        """
        Hand the operator to SciPy's iterative solvers and eigensolvers.

        :return: ``scipy.sparse.linalg.LinearOperator`` of shape (P, P)
        """
        from scipy.sparse.linalg import LinearOperator

        def matvec(v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            vector = th.as_tensor(v.reshape(-1), dtype=self.dtype, device=self.device)
            return self.matvec(vector).detach().cpu().numpy()

        dtype = th.zeros(0, dtype=self.dtype).numpy().dtype
        return LinearOperator(self.shape, matvec=matvec, rmatvec=matvec, dtype=dtype)
