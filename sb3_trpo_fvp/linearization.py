"""Products with the Jacobian of a network's outputs in its parameters, at one point, many times."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch as th
from torch import nn

from sb3_trpo_fvp.parameters import flatten, unflatten


class Linearization(ABC):
    """
    The derivative of outputs φ(θ) at θ_k: J (outputs by P) is never formed, only multiplied by.

    :param outputs: φ(θ_k), detached, tensors of any shapes
    :param num_parameters: P
    """

    def __init__(self, outputs: Sequence[th.Tensor], num_parameters: int):
        self.outputs = tuple(output.detach() for output in outputs)
        self.num_parameters = num_parameters

    @abstractmethod
    def jvp(self, v: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        Jacobian-vector product v → Jv.

        :param v: direction in the parameters, shape (P,)
        :return: direction in the outputs, shaped as they are
        """

    @abstractmethod
    def vjp(self, u: Sequence[th.Tensor]) -> th.Tensor:
        """
        Vector-Jacobian product u → Jᵀu.

        :param u: shaped as the outputs
        :return: shape (P,)
        """


class GraphLinearization(Linearization):
    """
    For any differentiable outputs, from two autograd graphs that are built once and walked by every product.

    Jᵀu is one walk back through the forward pass. It is linear in u, so Jv is its derivative in u along v: one walk
    back through the graph of Jᵀu. Forward-mode differentiation would do as well; measured, it takes twice the time.

    :param outputs: φ(θ), with graphs
    :param parameters: θ; those that an output does not depend on get a zero
    """

    def __init__(self, outputs: Sequence[th.Tensor], parameters: Sequence[nn.Parameter]):
        super().__init__(outputs, sum(parameter.numel() for parameter in parameters))
        self._parameters = parameters
        self._differentiable = [index for index, output in enumerate(outputs) if output.requires_grad]
        self._graphs = [outputs[index] for index in self._differentiable]
        self._dummies: list[th.Tensor] = []
        self._pullback: list[th.Tensor] = []
        if self._graphs and parameters:
            with th.enable_grad():
                self._dummies = [th.zeros_like(output, requires_grad=True) for output in self._graphs]
                self._pullback = list(
                    th.autograd.grad(
                        self._graphs, parameters, self._dummies, create_graph=True, allow_unused=True, materialize_grads=True
                    )
                )

    def jvp(self, v: th.Tensor) -> tuple[th.Tensor, ...]:
        """Return Jv, see :meth:`Linearization.jvp`."""
        result = [th.zeros_like(output) for output in self.outputs]
        pairs = [
            (pulled, piece)
            for pulled, piece in zip(self._pullback, unflatten(v, self._parameters), strict=bool(self._pullback))
            if pulled.requires_grad
        ]
        if pairs:
            pulled, pieces = zip(*pairs, strict=True)
            tangents = th.autograd.grad(pulled, self._dummies, pieces, retain_graph=True, materialize_grads=True)
            for index, tangent in zip(self._differentiable, tangents, strict=True):
                result[index] = tangent
        return tuple(result)

    def vjp(self, u: Sequence[th.Tensor]) -> th.Tensor:
        """Return Jᵀu, see :meth:`Linearization.vjp`."""
        if not self._pullback:
            return th.zeros(self.num_parameters, dtype=self.outputs[0].dtype, device=self.outputs[0].device)
        cotangents = [u[index] for index in self._differentiable]
        pulled = th.autograd.grad(
            self._graphs, self._parameters, cotangents, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return flatten(pulled)
