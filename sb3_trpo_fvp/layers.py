"""
Jacobian products of the common networks, written out layer by layer.

A stack of linear or convolutional layers and elementwise activations needs neither autograd's graphs nor its
bookkeeping: with activations A_l, activation slopes D_l, weights W_l and a direction (dW_l, db_l),

    push:  T_l = U_{l-1} W_lᵀ + A_{l-1} dW_lᵀ + db_l,   U_l = D_l ∘ T_l
    pull:  dW_l = G_lᵀ A_{l-1},  db_l = Σ_n G_l,         G_{l-1} = D_{l-1} ∘ (G_l W_l)

Networks are recognised by what they are; see :func:`actor_stack` and :func:`critic_stack`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_trpo_fvp.linearization import Linearization

Slots: TypeAlias = Mapping[th.Tensor, slice]
"""Where in a flat vector each parameter to differentiate in lies; a frozen parameter is not there."""


class _Layer(ABC):
    """One layer at one input, which it keeps."""

    @abstractmethod
    def push(self, tangent: th.Tensor | None, v: th.Tensor) -> th.Tensor | None:
        """
        Jacobian-vector product: from the tangent of the input and a direction in the parameters to that of the output.

        :param tangent: shaped as the input; None stands for zero
        :param v: direction in all parameters, shape (P,)
        :return: shaped as the output; None stands for zero
        """

    @abstractmethod
    def pull(self, cotangent: th.Tensor, out: th.Tensor, needs_input: bool) -> th.Tensor | None:
        """
        Vector-Jacobian product: add the parameters' part to ``out`` and return the input's.

        :param cotangent: shaped as the output
        :param out: shape (P,)
        :param needs_input: whether anything below has parameters
        :return: shaped as the input, or None if not needed
        """


class _Affine(_Layer):
    """What linear and convolutional layers share: a weight, maybe a bias, and their places in the flat vector."""

    def __init__(self, module: nn.Linear | nn.Conv2d, x: th.Tensor, slots: Slots):
        self.x = x
        self.weight = module.weight.detach().clone()
        self._weight_slot = slots.get(module.weight)
        self._bias_slot = None if module.bias is None else slots.get(module.bias)
        self.has_parameters = self._weight_slot is not None or self._bias_slot is not None

    def d_weight(self, v: th.Tensor) -> th.Tensor | None:
        """View the weight's part of a flat vector, None if it is frozen."""
        return None if self._weight_slot is None else v[self._weight_slot].view_as(self.weight)

    def d_bias(self, v: th.Tensor) -> th.Tensor | None:
        """View the bias's part of a flat vector, None if there is none or it is frozen."""
        return None if self._bias_slot is None else v[self._bias_slot]


class _Linear(_Affine):
    def push(self, tangent: th.Tensor | None, v: th.Tensor) -> th.Tensor | None:
        d_weight, d_bias = self.d_weight(v), self.d_bias(v)
        result = None
        if d_weight is not None:
            result = F.linear(self.x, d_weight, d_bias)
        elif d_bias is not None:
            result = d_bias.expand(len(self.x), -1).clone()
        if tangent is None:
            return result
        return th.mm(tangent, self.weight.t()) if result is None else result.addmm_(tangent, self.weight.t())

    def pull(self, cotangent: th.Tensor, out: th.Tensor, needs_input: bool) -> th.Tensor | None:
        d_weight, d_bias = self.d_weight(out), self.d_bias(out)
        if d_weight is not None:
            d_weight.addmm_(cotangent.t(), self.x)
        if d_bias is not None:
            d_bias += cotangent.sum(0)
        return th.mm(cotangent, self.weight) if needs_input else None


class _Conv2d(_Affine):
    def __init__(self, module: nn.Conv2d, x: th.Tensor, slots: Slots):
        super().__init__(module, x, slots)
        assert not isinstance(module.padding, str)
        self._geometry = (module.stride, module.padding, module.dilation)
        self._groups = module.groups

    def push(self, tangent: th.Tensor | None, v: th.Tensor) -> th.Tensor | None:
        d_weight, d_bias = self.d_weight(v), self.d_bias(v)
        if d_weight is None and d_bias is not None:
            d_weight = th.zeros_like(self.weight)
        result = None
        if d_weight is not None:
            result = F.conv2d(self.x, d_weight, d_bias, *self._geometry, self._groups)
        if tangent is None:
            return result
        through = F.conv2d(tangent, self.weight, None, *self._geometry, self._groups)
        return through if result is None else result.add_(through)

    def pull(self, cotangent: th.Tensor, out: th.Tensor, needs_input: bool) -> th.Tensor | None:
        d_weight, d_bias = self.d_weight(out), self.d_bias(out)
        from_input, from_weight, from_bias = th.ops.aten.convolution_backward(
            cotangent,
            self.x,
            self.weight,
            [len(self.weight)],
            *self._geometry,
            False,
            [0, 0],
            self._groups,
            [needs_input, d_weight is not None, d_bias is not None],
        )
        if d_weight is not None:
            d_weight += from_weight
        if d_bias is not None:
            d_bias += from_bias
        return from_input if needs_input else None


class _Elementwise(_Layer):
    """An activation function, by its slope at the input."""

    has_parameters = False

    def __init__(self, module: nn.Module, x: th.Tensor, y: th.Tensor):
        self._output = y
        self._slope: th.Tensor | None = None
        self._kind = type(module)
        if self._kind not in (nn.Tanh, nn.ReLU):
            with th.enable_grad():
                x = x.detach().requires_grad_()
                (self._slope,) = th.autograd.grad(module(x).sum(), x)

    def _scale(self, tensor: th.Tensor) -> th.Tensor:
        # The two common activations know their slope from the output that the next layer keeps anyway.
        if self._kind is nn.Tanh:
            return th.ops.aten.tanh_backward(tensor, self._output)  # type: ignore[no-any-return]
        if self._kind is nn.ReLU:
            return th.ops.aten.threshold_backward(tensor, self._output, 0)  # type: ignore[no-any-return]
        assert self._slope is not None
        return tensor * self._slope

    def push(self, tangent: th.Tensor | None, v: th.Tensor) -> th.Tensor | None:
        return None if tangent is None else self._scale(tangent)

    def pull(self, cotangent: th.Tensor, out: th.Tensor, needs_input: bool) -> th.Tensor | None:
        return self._scale(cotangent) if needs_input else None


class _Flatten(_Layer):
    has_parameters = False

    def __init__(self, x: th.Tensor):
        self._shape = x.shape

    def push(self, tangent: th.Tensor | None, v: th.Tensor) -> th.Tensor | None:
        return None if tangent is None else tangent.flatten(1)

    def pull(self, cotangent: th.Tensor, out: th.Tensor, needs_input: bool) -> th.Tensor | None:
        return cotangent.view(self._shape) if needs_input else None


ELEMENTWISE: frozenset[type[nn.Module]] = frozenset(
    {nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Softplus, nn.Mish, nn.Softsign}
)
"""Activations whose output at an index depends on the input at that index alone."""

KNOWN: frozenset[type[nn.Module]] = ELEMENTWISE | {nn.Linear, nn.Conv2d, nn.Flatten}
"""The layers that a stack may be made of."""


class StackLinearization(Linearization):
    """
    The derivative of a stack of layers at one input, written out.

    :param modules: the layers, of classes in :data:`KNOWN`
    :param x: input, shape (n, ...)
    :param slots: where the parameters to differentiate in lie in a flat vector; the layers' others are held fixed
    :param log_std: of a diagonal Gaussian whose mean is the stack's output: outputs are (μ, σ) then
    :param sizes: cut the output's columns into pieces of these sizes (several categoricals)
    """

    @th.no_grad()
    def __init__(
        self,
        modules: Sequence[nn.Module],
        x: th.Tensor,
        slots: Slots,
        *,
        log_std: nn.Parameter | None = None,
        sizes: Sequence[int] | None = None,
    ):
        self._layers: list[_Linear | _Conv2d | _Elementwise | _Flatten] = []
        kept = x.numel()
        for module in modules:
            y = module(x)
            kept += y.numel()
            if isinstance(module, nn.Linear):
                self._layers.append(_Linear(module, x, slots))
            elif isinstance(module, nn.Conv2d):
                self._layers.append(_Conv2d(module, x, slots))
            elif isinstance(module, nn.Flatten):
                self._layers.append(_Flatten(x))
            else:
                self._layers.append(_Elementwise(module, x, y))
            x = y
        self.kept_numbers = kept
        with_parameters = [index for index, layer in enumerate(self._layers) if layer.has_parameters]
        self._lowest = min(with_parameters, default=len(self._layers))
        self._num_parameters = max((slot.stop for slot in slots.values()), default=0)
        self._sizes = sizes
        self._std: th.Tensor | None = None
        self._log_std_slot: slice | None = None
        self.outputs: tuple[th.Tensor, ...] = (x,)
        if log_std is not None:
            self._log_std_slot = slots.get(log_std)
            self._std = log_std.detach().exp().expand_as(x)
            self.outputs = (x, self._std)
        elif sizes is not None:
            self.outputs = th.split(x, list(sizes), dim=1)

    @th.no_grad()
    def jvp(self, v: th.Tensor) -> tuple[th.Tensor, ...]:
        """Return Jv, see :meth:`Linearization.jvp`."""
        tangent: th.Tensor | None = None
        for layer in self._layers:
            tangent = layer.push(tangent, v)
        if tangent is None:
            like = self.outputs if self._sizes is None else [th.cat(self.outputs, dim=1)]
            tangent = th.zeros_like(like[0])
        if self._std is not None:
            slot = self._log_std_slot
            return tangent, th.zeros_like(self._std) if slot is None else self._std * v[slot]
        return (tangent,) if self._sizes is None else th.split(tangent, list(self._sizes), dim=1)

    @th.no_grad()
    def vjp(self, u: Sequence[th.Tensor], out: th.Tensor | None = None) -> th.Tensor:
        """Return Jᵀu, see :meth:`Linearization.vjp`."""
        if out is None:
            out = u[0].new_zeros(self._num_parameters)
        if self._std is not None and self._log_std_slot is not None:
            out[self._log_std_slot] += (u[1] * self._std).sum(0)
        cotangent = u[0] if self._sizes is None else th.cat(list(u), dim=1)
        for index in range(len(self._layers) - 1, self._lowest - 1, -1):
            pulled = self._layers[index].pull(cotangent, out, needs_input=index > self._lowest)
            if pulled is None:
                break
            cotangent = pulled
        return out
