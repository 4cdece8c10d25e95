"""
Jacobian products of the common networks, written out layer by layer.

A stack of linear or convolutional layers and elementwise activations needs neither autograd's graphs nor its
bookkeeping: with activations A_l, activation slopes D_l, weights W_l and a direction (dW_l, db_l),

    jvp:             T_l = U_{l-1} W_lᵀ + A_{l-1} dW_lᵀ + db_l,   U_l = D_l ∘ T_l
    vjp_parameters:  dW_l = G_lᵀ A_{l-1},  db_l = Σ_n G_l
    vjp_input:       G_{l-1} = D_{l-1} ∘ (G_l W_l)

Networks are recognised by what they are; see :mod:`sb3_trpo_fvp.linearization.recognition`.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, TypeAlias

import torch as th
from torch import nn
from torch.nn import functional as F

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

    def subsample(self, step: int) -> "Layer":
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
    def jvp(self, tangent: th.Tensor | None, v: th.Tensor) -> th.Tensor | None:
        """
        Jacobian-vector product: from the tangent of the input and a direction in the parameters to that of the output.

        :param tangent: shaped as the input; None stands for zero
        :param v: direction in all parameters, shape (P,)
        :return: shaped as the output; None stands for zero
        """

    @abstractmethod
    def vjp_input(self, cotangent: th.Tensor) -> th.Tensor:
        """
        Vector-Jacobian product with the input: from the cotangent of the output to that of the input.

        :param cotangent: shaped as the output
        :return: shaped as the input
        """

    def vjp_parameters(self, cotangent: th.Tensor, out: th.Tensor) -> None:
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

    def __init__(self, module: nn.Linear | nn.Conv2d, slots: Slots, live_parameters: bool):
        self.weight = module.weight.detach()
        self.bias = None if module.bias is None else module.bias.detach()
        if not live_parameters:
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

    def jvp(self, tangent: th.Tensor | None, v: th.Tensor) -> th.Tensor | None:
        """See :meth:`Layer.jvp`."""
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

    def vjp_input(self, cotangent: th.Tensor) -> th.Tensor:
        """See :meth:`Layer.vjp_input`."""
        return th.mm(cotangent, self.weight)

    def vjp_parameters(self, cotangent: th.Tensor, out: th.Tensor) -> None:
        """See :meth:`Layer.vjp_parameters`."""
        d_weight, d_bias = self.d_weight(out), self.d_bias(out)
        if d_weight is not None:
            d_weight.addmm_(cotangent.t(), self.x)
        if d_bias is not None:
            d_bias += cotangent.sum(0)


class _Conv2d(_Affine):
    def __init__(self, module: nn.Conv2d, slots: Slots, live_parameters: bool):
        super().__init__(module, slots, live_parameters)
        assert not isinstance(module.padding, str)
        self._geometry = (module.stride, module.padding, module.dilation)
        self._groups = module.groups

    def forward(self, x: th.Tensor) -> th.Tensor:
        self.x = x
        return F.conv2d(x, self.weight, self.bias, *self._geometry, self._groups)

    def jvp(self, tangent: th.Tensor | None, v: th.Tensor) -> th.Tensor | None:
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

    def vjp_input(self, cotangent: th.Tensor) -> th.Tensor:
        return self._backward(cotangent, (True, False, False))[0]

    def vjp_parameters(self, cotangent: th.Tensor, out: th.Tensor) -> None:
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

    def jvp(self, tangent: th.Tensor | None, v: th.Tensor) -> th.Tensor | None:
        return None if tangent is None else self._scale(tangent)

    def vjp_input(self, cotangent: th.Tensor) -> th.Tensor:
        return self._scale(cotangent)


class _Flatten(Layer):
    _shape: th.Size

    def forward(self, x: th.Tensor) -> th.Tensor:
        self._shape = x.shape
        return x.flatten(1)

    def jvp(self, tangent: th.Tensor | None, v: th.Tensor) -> th.Tensor | None:
        return None if tangent is None else tangent.flatten(1)

    def vjp_input(self, cotangent: th.Tensor) -> th.Tensor:
        return cotangent.view(-1, *self._shape[1:])


ELEMENTWISE: frozenset[type[nn.Module]] = frozenset(
    {nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Softplus, nn.Mish, nn.Softsign}
)
"""Activations whose output at an index depends on the input at that index alone."""

KNOWN: frozenset[type[nn.Module]] = ELEMENTWISE | {nn.Linear, nn.Conv2d, nn.Flatten}
"""The layers that a stack may be made of."""


def layer_of(module: nn.Module, slots: Slots, live_parameters: bool) -> Layer:
    """
    Write a module out.

    :param module: of a class in :data:`KNOWN`
    :param slots: where the parameters to differentiate in lie in a flat vector
    :param live_parameters: whether to follow the module's parameters as they change, or to keep them as they are
    :return: the layer
    """
    if isinstance(module, nn.Linear):
        return LinearLayer(module, slots, live_parameters)
    if isinstance(module, nn.Conv2d):
        return _Conv2d(module, slots, live_parameters)
    return _Flatten() if isinstance(module, nn.Flatten) else _Elementwise(module)
