"""Lists of tensors as one flat vector, and whether they are finite."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch as th
from torch import nn


def all_finite(values: th.Tensor | Mapping[str, th.Tensor] | Iterable[th.Tensor]) -> bool:
    """
    Look for NaN and infinity.

    :param values: a tensor, or a dict or sequence of tensors
    :return: whether there is none
    """
    if isinstance(values, th.Tensor):
        # One sum sees every element, several times sooner; of finite numbers it may overflow.
        return math.isfinite(values.detach().sum()) or bool(th.isfinite(values).all())
    return all(map(all_finite, values.values() if isinstance(values, Mapping) else values))


def flatten(tensors: Sequence[th.Tensor], like: Sequence[th.Tensor] = ()) -> th.Tensor:
    """
    Concatenate tensors into one vector.

    :param tensors: any shapes
    :param like: what an empty sequence takes its dtype and device from
    :return: vector of all their elements, shape (P,)
    """
    if not tensors:
        return like[0].new_zeros(0) if like else th.zeros(0)
    return th.cat([tensor.reshape(-1) for tensor in tensors])


def unflatten(vector: th.Tensor, like: Sequence[th.Tensor]) -> list[th.Tensor]:
    """
    Cut a vector into views with the shapes of ``like``.

    :param vector: shape (P,), P the number of elements of ``like``
    :param like: tensors whose shapes are wanted
    :return: views into ``vector``
    """
    pieces = th.split(vector, [tensor.numel() for tensor in like])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, like, strict=True)]


@th.no_grad()
def assign(parameters: Sequence[nn.Parameter], vector: th.Tensor) -> None:
    """
    Copy a flat vector into parameters, in place, so that every alias of them sees the new values.

    :param parameters: the parameters, P elements in all
    :param vector: shape (P,)
    """
    for parameter, piece in zip(parameters, unflatten(vector, parameters), strict=True):
        parameter.copy_(piece)
