"""Products with the Jacobian of a network's outputs in its parameters, at one point, many times."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch as th

CACHED_NUMBERS = 2**20
"""Written-out products are done on so many activations at a time: four megabytes, which stay in a processor's cache."""


class Linearization(ABC):
    """The derivative of outputs φ(θ) at θ_k: J, outputs by P, is never formed, only multiplied by."""

    num_activations: int | None = None
    """How many activations are kept for the products, None where autograd does not tell."""

    @abstractmethod
    def jvp(self, v: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        Jacobian-vector product v → Jv.

        :param v: direction in the parameters, shape (P,)
        :return: direction in the outputs, shaped as they are
        """

    @abstractmethod
    def vjp(self, u: Sequence[th.Tensor], out: th.Tensor | None = None) -> th.Tensor:
        """
        Vector-Jacobian product u → Jᵀu.

        :param u: shaped as the outputs
        :param out: add to this vector, shape (P,), and return it
        :return: shape (P,)
        """


def chunks(size: int, num_activations: int | None, chunk_size: int | None = None) -> list[slice]:
    """
    Cut N states into chunks to multiply one after the other.

    :param size: N
    :param num_activations: what the linearisation of one state keeps, None for autograd's
    :param chunk_size: states in a chunk; by default as many as fit the cache, and all of them for autograd's
    :return: the chunks, in order
    """
    if chunk_size is None:
        most = size if num_activations is None else max(128, CACHED_NUMBERS // num_activations)
        # Of equal size: a small last chunk would cost as many calls as a full one.
        chunk_size = -(-size // -(-size // most))
    return [slice(start, start + chunk_size) for start in range(0, size, chunk_size)]
