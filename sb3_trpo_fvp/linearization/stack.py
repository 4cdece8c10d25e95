"""Networks that are layers one after the other, and their derivatives, written out layer by layer."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_trpo_fvp.linearization.base import Linearization
from sb3_trpo_fvp.linearization.layers import Layer, Slots, apply, layer_of


class StackLinearization(Linearization):
    """
    The derivative of a stack of layers at one input, written out.

    :param modules: the layers, of classes in :data:`KNOWN`
    :param x: input, shape (n, ...)
    :param slots: where the parameters to differentiate in lie in a flat vector; the layers' others are held fixed
    :param log_std: of a diagonal Gaussian whose mean is the stack's output: outputs are (μ, σ) then
    :param sizes: cut the output's columns into parts of these sizes (several categoricals)
    :param live_parameters: whether the layers' parameters are those of the modules as they change, rather than as they are now
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        x: th.Tensor,
        slots: Slots,
        *,
        log_std: nn.Parameter | None = None,
        sizes: Sequence[int] | None = None,
        live_parameters: bool = False,
    ):
        self._layers = [layer_of(module, slots, live_parameters) for module in modules]
        with_parameters = [index for index, layer in enumerate(self._layers) if layer.has_parameters]
        self._lowest = min(with_parameters, default=len(self._layers))
        self._num_parameters = max((slot.stop for slot in slots.values()), default=0)
        self._sizes = sizes
        self._log_std = log_std
        self._log_std_slot = None if log_std is None else slots.get(log_std)
        self._std: th.Tensor | None = None
        self.head = x
        self.outputs: tuple[th.Tensor, ...] = ()
        self.relinearize(x)

    @th.no_grad()
    def relinearize(self, x: th.Tensor) -> None:
        """
        Linearise at another input.

        :param x: shape (n, ...)
        """
        kept = x.numel()
        for layer in self._layers:
            x = layer.forward(x)
            kept += x.numel()
        self.num_activations = kept
        self.head = x
        self.outputs = (x,)
        if self._log_std is not None:
            self._std = self._log_std.detach().exp().expand_as(x)
            self.outputs = (x, self._std)
        elif self._sizes is not None:
            self.outputs = th.split(x, list(self._sizes), dim=1)

    def subsample(self, step: int) -> "StackLinearization":
        """
        Look at some of the states: views, no arithmetic.

        :param step: every how many
        :return: the derivative there
        """
        twin = copy.copy(self)
        twin._layers = [layer.subsample(step) for layer in self._layers]
        twin.outputs = tuple(output[::step] for output in self.outputs)
        twin._std = None if self._std is None else self._std[::step]
        return twin

    @th.no_grad()
    def jvp(self, v: th.Tensor) -> tuple[th.Tensor, ...]:
        """Return Jv, see :meth:`Linearization.jvp`."""
        tangent: th.Tensor | None = None
        for layer in self._layers:
            tangent = layer.jvp(tangent, v)
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
            layer.vjp_parameters(cotangent, out)
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
                cotangent = layer.vjp_input(cotangent)


@dataclass(frozen=True)
class Stack:
    """
    A network that is nothing but layers one after the other, from features or pixels to φ or the values.

    :param layers: all that have parameters to differentiate in, in the order of the forward pass
    :param slots: where those parameters lie in a flat vector
    :param features: observations → what is fed to the first layer; does not depend on the parameters
    :param log_std: of a diagonal Gaussian
    :param sizes: of several categoricals
    """

    layers: tuple[nn.Module, ...]
    slots: Slots
    features: Callable[[PyTorchObs], th.Tensor]
    log_std: nn.Parameter | None = None
    sizes: tuple[int, ...] | None = None

    @th.no_grad()
    def forward(self, features: th.Tensor) -> th.Tensor:
        """
        Run the layers.

        :param features: of n states
        :return: output of the last one: means, logits or values
        """
        for layer in self.layers:
            features = apply(layer, features)
        return features

    def linearize(self, features: th.Tensor, live_parameters: bool = False) -> StackLinearization:
        """
        Linearise at the present parameters.

        :param features: of n states
        :param live_parameters: whether to be at the parameters of the time, whenever it is moved to other states
        :return: with outputs (μ, σ), (logits,), one (logits) per categorical, or (values,)
        """
        return StackLinearization(
            self.layers, features, self.slots, log_std=self.log_std, sizes=self.sizes, live_parameters=live_parameters
        )
