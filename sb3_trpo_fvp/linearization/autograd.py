"""Jacobian products of any differentiable outputs, through autograd."""

from collections.abc import Sequence
from functools import cached_property

import torch as th
from torch import nn

from sb3_trpo_fvp.linalg.autograd import grad_along
from sb3_trpo_fvp.linalg.vectors import flatten, unflatten
from sb3_trpo_fvp.linearization.base import Linearization


class GraphLinearization(Linearization):
    """
    For any differentiable outputs, from two autograd graphs that are built once and walked by every product.

    Jᵀu is one walk back through the forward pass. It is linear in u, so Jv is its derivative in u along v: one walk
    back through the graph of Jᵀu. Forward-mode differentiation would do as well; measured, it takes twice the time.

    :param outputs: φ(θ), with graphs
    :param parameters: θ; those that an output does not depend on get a zero
    """

    def __init__(self, outputs: Sequence[th.Tensor], parameters: Sequence[nn.Parameter]):
        self.outputs = tuple(output.detach() for output in outputs)
        self._parameters = parameters
        self._differentiable = [index for index, output in enumerate(outputs) if output.requires_grad and parameters]
        self._graphs = [outputs[index] for index in self._differentiable]

    @cached_property
    def _pullback(self) -> tuple[list[th.Tensor], list[th.Tensor]]:
        """Return u, a stand-in, and the graph of Jᵀu."""
        with th.enable_grad():
            u = [th.zeros_like(output, requires_grad=True) for output in self._graphs]
            return u, list(self._pull(u, create_graph=True))

    def jvp(self, v: th.Tensor) -> tuple[th.Tensor, ...]:
        """Return Jv, see :meth:`Linearization.jvp`."""
        result = [th.zeros_like(output) for output in self.outputs]
        if self._graphs:
            u, pullback = self._pullback
            tangents = grad_along(pullback, u, unflatten(v, self._parameters))
            for index, tangent in zip(self._differentiable, tangents, strict=True):
                result[index] = tangent
        return tuple(result)

    def vjp(self, u: Sequence[th.Tensor], out: th.Tensor | None = None) -> th.Tensor:
        """Return Jᵀu, see :meth:`Linearization.vjp`."""
        if self._graphs:
            pulled = flatten(self._pull([u[index] for index in self._differentiable]))
        else:
            pulled = self.outputs[0].new_zeros(sum(parameter.numel() for parameter in self._parameters))
        return pulled if out is None else out.add_(pulled)

    def _pull(self, u: Sequence[th.Tensor], create_graph: bool = False) -> tuple[th.Tensor, ...]:
        return th.autograd.grad(
            self._graphs,
            self._parameters,
            u,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
