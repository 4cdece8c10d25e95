"""
Jacobian products of the common networks, written out layer by layer.

A stack of linear or convolutional layers and elementwise activations needs neither autograd's graphs nor its
bookkeeping: with activations A_l, activation slopes D_l, weights W_l and a direction (dW_l, db_l),

    push:  T_l = U_{l-1} W_lᵀ + A_{l-1} dW_lᵀ + db_l,   U_l = D_l ∘ T_l
    pull:  dW_l = G_lᵀ A_{l-1},  db_l = Σ_n G_l,         G_{l-1} = D_{l-1} ∘ (G_l W_l)

Networks are recognised by what they are; see :func:`actor_stack` and :func:`critic_stack`.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, TypeAlias

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_trpo_fvp.linearization import Linearization

Slots: TypeAlias = Mapping[th.Tensor, slice]
"""Where in a flat vector each parameter to differentiate in lies; a frozen parameter is not there."""


_FEW_OUTPUTS = 16
_MANY_NUMBERS = 2**15


class Layer(ABC):
    """One layer, and what its derivative at its last input takes."""

    has_parameters: bool = False
    """Whether there are any to differentiate in."""
    kept: ClassVar[tuple[str, ...]] = ()
    """Names of the tensors, a row a state, that forward keeps."""

    def every(self, step: int) -> "Layer":
        """
        Look at some of the states.

        :param step: every how many
        :return: this layer as if it had seen no others
        """
        twin = copy.copy(self)
        vars(twin).update({name: rows[::step] for name in self.kept if (rows := getattr(self, name)) is not None})
        return twin

    @abstractmethod
    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Do what the module does, and keep what the products below need.

        :param x: input, shape (n, ...)
        :return: output
        """

    @abstractmethod
    def push(self, tangent: th.Tensor | None, v: th.Tensor) -> th.Tensor | None:
        """
        Jacobian-vector product: from the tangent of the input and a direction in the parameters to that of the output.

        :param tangent: shaped as the input; None stands for zero
        :param v: direction in all parameters, shape (P,)
        :return: shaped as the output; None stands for zero
        """

    @abstractmethod
    def pull(self, cotangent: th.Tensor) -> th.Tensor:
        """
        Vector-Jacobian product with the input: from the cotangent of the output to that of the input.

        :param cotangent: shaped as the output
        :return: shaped as the input
        """

    def collect(self, cotangent: th.Tensor, out: th.Tensor) -> None:
        """
        Vector-Jacobian product with the parameters, added to ``out``; nothing for a layer without.

        :param cotangent: shaped as the output
        :param out: shape (P,)
        """
        return


class _Affine(Layer):
    """What linear and convolutional layers share: a weight, maybe a bias, and their places in the flat vector."""

    kept = ("x",)
    x: th.Tensor

    def __init__(self, module: nn.Linear | nn.Conv2d, slots: Slots, follow: bool):
        self.weight = module.weight.detach()
        self.bias = None if module.bias is None else module.bias.detach()
        if not follow:
            self.weight = self.weight.clone()
            self.bias = None if self.bias is None else self.bias.clone()
        self.weight_slot = slots.get(module.weight)
        self.bias_slot = None if module.bias is None else slots.get(module.bias)
        self.has_parameters = self.weight_slot is not None or self.bias_slot is not None

    def d_weight(self, v: th.Tensor) -> th.Tensor | None:
        """View the weight's part of a flat vector, None if it is frozen."""
        return None if self.weight_slot is None else v[self.weight_slot].view_as(self.weight)

    def d_bias(self, v: th.Tensor) -> th.Tensor | None:
        """View the bias's part of a flat vector, None if there is none or it is frozen."""
        return None if self.bias_slot is None else v[self.bias_slot]


class LinearLayer(_Affine):
    """y = x Wᵀ + b."""

    @property
    def num_inputs(self) -> int:
        """Columns of the weight, and one for the bias."""
        return self.weight.shape[1] + (self.bias_slot is not None)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """See :meth:`Layer.forward`."""
        self.x = x
        return F.linear(x, self.weight, self.bias)

    def push(self, tangent: th.Tensor | None, v: th.Tensor) -> th.Tensor | None:
        """See :meth:`Layer.push`."""
        d_weight, d_bias = self.d_weight(v), self.d_bias(v)
        if len(self.weight) < _FEW_OUTPUTS and d_weight is not None:
            # The same, transposed: a product with few columns takes several times as long as one with few rows.
            rows = th.mm(d_weight, self.x.t()) if d_bias is None else th.addmm(d_bias.unsqueeze(1), d_weight, self.x.t())
            return (rows if tangent is None else rows.addmm_(self.weight, tangent.t())).t()
        result = None
        if d_weight is not None:
            result = F.linear(self.x, d_weight, d_bias)
        elif d_bias is not None:
            result = d_bias.expand(len(self.x), -1).clone()
        if tangent is None:
            return result
        return th.mm(tangent, self.weight.t()) if result is None else result.addmm_(tangent, self.weight.t())

    def pull(self, cotangent: th.Tensor) -> th.Tensor:
        """See :meth:`Layer.pull`."""
        return th.mm(cotangent, self.weight)

    def collect(self, cotangent: th.Tensor, out: th.Tensor) -> None:
        """See :meth:`Layer.collect`."""
        d_weight, d_bias = self.d_weight(out), self.d_bias(out)
        if d_weight is not None:
            d_weight.addmm_(cotangent.t(), self.x)
        if d_bias is not None:
            d_bias += cotangent.sum(0)


class _Conv2d(_Affine):
    def __init__(self, module: nn.Conv2d, slots: Slots, follow: bool):
        super().__init__(module, slots, follow)
        assert not isinstance(module.padding, str)
        self._geometry = (module.stride, module.padding, module.dilation)
        self._groups = module.groups

    def forward(self, x: th.Tensor) -> th.Tensor:
        self.x = x
        return F.conv2d(x, self.weight, self.bias, *self._geometry, self._groups)

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

    def pull(self, cotangent: th.Tensor) -> th.Tensor:
        return self._backward(cotangent, (True, False, False))[0]

    def collect(self, cotangent: th.Tensor, out: th.Tensor) -> None:
        d_weight, d_bias = self.d_weight(out), self.d_bias(out)
        _, from_weight, from_bias = self._backward(cotangent, (False, d_weight is not None, d_bias is not None))
        if d_weight is not None:
            d_weight += from_weight
        if d_bias is not None:
            d_bias += from_bias

    def _backward(self, cotangent: th.Tensor, wanted: tuple[bool, bool, bool]) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        return th.ops.aten.convolution_backward(  # type: ignore[no-any-return]
            cotangent, self.x, self.weight, [len(self.weight)], *self._geometry, False, [0, 0], self._groups, wanted
        )


def apply(module: nn.Module, x: th.Tensor) -> th.Tensor:
    """
    Do what a layer does.

    :param module: of a class in :data:`KNOWN`
    :param x: input
    :return: output; of tanh on many numbers with an error of a rounding of 1, where tanh(x) itself may be small
    """
    if type(module) is nn.Tanh and x.device.type == "cpu" and x.numel() >= _MANY_NUMBERS:
        return th.sigmoid(2.0 * x).mul_(2.0).sub_(1.0)  # PyTorch's tanh takes more than twice as long
    # The module's forward itself: it has no hooks, and calling it would look for some.
    return module.forward(x)  # type: ignore[no-any-return]


class _Elementwise(Layer):
    """An activation function, by its slope at the input."""

    kept = ("_output", "_slope")
    _output: th.Tensor
    _slope: th.Tensor | None = None

    def __init__(self, module: nn.Module):
        self._module = module
        self._kind = type(module)

    def forward(self, x: th.Tensor) -> th.Tensor:
        self._output = apply(self._module, x)
        if self._kind not in (nn.Tanh, nn.ReLU):
            with th.enable_grad():
                x = x.detach().requires_grad_()
                (self._slope,) = th.autograd.grad(self._module(x).sum(), x)
        return self._output

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

    def pull(self, cotangent: th.Tensor) -> th.Tensor:
        return self._scale(cotangent)


class _Flatten(Layer):
    _shape: th.Size

    def forward(self, x: th.Tensor) -> th.Tensor:
        self._shape = x.shape
        return x.flatten(1)

    def push(self, tangent: th.Tensor | None, v: th.Tensor) -> th.Tensor | None:
        return None if tangent is None else tangent.flatten(1)

    def pull(self, cotangent: th.Tensor) -> th.Tensor:
        return cotangent.view(-1, *self._shape[1:])


ELEMENTWISE: frozenset[type[nn.Module]] = frozenset(
    {nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Softplus, nn.Mish, nn.Softsign}
)
"""Activations whose output at an index depends on the input at that index alone."""

KNOWN: frozenset[type[nn.Module]] = ELEMENTWISE | {nn.Linear, nn.Conv2d, nn.Flatten}
"""The layers that a stack may be made of."""


def _layer(module: nn.Module, slots: Slots, follow: bool) -> Layer:
    if isinstance(module, nn.Linear):
        return LinearLayer(module, slots, follow)
    if isinstance(module, nn.Conv2d):
        return _Conv2d(module, slots, follow)
    return _Flatten() if isinstance(module, nn.Flatten) else _Elementwise(module)


class StackLinearization(Linearization):
    """
    The derivative of a stack of layers at one input, written out.

    :param modules: the layers, of classes in :data:`KNOWN`
    :param x: input, shape (n, ...)
    :param slots: where the parameters to differentiate in lie in a flat vector; the layers' others are held fixed
    :param log_std: of a diagonal Gaussian whose mean is the stack's output: outputs are (μ, σ) then
    :param sizes: cut the output's columns into pieces of these sizes (several categoricals)
    :param follow: whether the layers' parameters are those of the modules as they change, rather than as they are now
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        x: th.Tensor,
        slots: Slots,
        *,
        log_std: nn.Parameter | None = None,
        sizes: Sequence[int] | None = None,
        follow: bool = False,
    ):
        self._layers = [_layer(module, slots, follow) for module in modules]
        with_parameters = [index for index, layer in enumerate(self._layers) if layer.has_parameters]
        self._lowest = min(with_parameters, default=len(self._layers))
        self._num_parameters = max((slot.stop for slot in slots.values()), default=0)
        self._sizes = sizes
        self._log_std = log_std
        self._log_std_slot = None if log_std is None else slots.get(log_std)
        self._std: th.Tensor | None = None
        self.head = x
        self.outputs: tuple[th.Tensor, ...] = ()
        self.move_to(x)

    @th.no_grad()
    def move_to(self, x: th.Tensor) -> None:
        """
        Linearise at another input.

        :param x: shape (n, ...)
        """
        kept = x.numel()
        for layer in self._layers:
            x = layer.forward(x)
            kept += x.numel()
        self.kept_numbers = kept
        self.head = x
        self.outputs = (x,)
        if self._log_std is not None:
            self._std = self._log_std.detach().exp().expand_as(x)
            self.outputs = (x, self._std)
        elif self._sizes is not None:
            self.outputs = th.split(x, list(self._sizes), dim=1)

    def every(self, step: int) -> "StackLinearization":
        """
        Look at some of the states: views, no arithmetic.

        :param step: every how many
        :return: the derivative there
        """
        twin = copy.copy(self)
        twin._layers = [layer.every(step) for layer in self._layers]
        twin.outputs = tuple(output[::step] for output in self.outputs)
        twin._std = None if self._std is None else self._std[::step]
        return twin

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
        for layer, cotangent in self.backward(u):
            layer.collect(cotangent, out)
        return out

    def backward(self, u: Sequence[th.Tensor]) -> Iterator[tuple[Layer, th.Tensor]]:
        """
        Walk back from the outputs to the lowest layer that has parameters.

        :param u: shaped as the outputs; that of σ is not looked at
        :return: each layer with the cotangent of its output
        """
        cotangent = u[0] if self._sizes is None else th.cat(list(u), dim=1)
        for index in range(len(self._layers) - 1, self._lowest - 1, -1):
            layer = self._layers[index]
            yield layer, cotangent
            if index > self._lowest:
                cotangent = layer.pull(cotangent)
