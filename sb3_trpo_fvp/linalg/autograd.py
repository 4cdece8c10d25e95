"""Products with derivatives through autograd, where an output may have no graph."""

from collections.abc import Sequence

import torch as th


def grad_along(
    outputs: Sequence[th.Tensor], inputs: Sequence[th.Tensor], directions: Sequence[th.Tensor]
) -> tuple[th.Tensor, ...]:
    """
    Differentiate Σ_i ⟨outputs_i, directions_i⟩, leaving out the outputs that are constant, and so have no graph.

    With outputs that are themselves a gradient this is the product of a Hessian with the directions (Pearlmutter, 1994).

    :param outputs: any shapes
    :param inputs: in which to differentiate, at least one
    :param directions: shaped as the outputs
    :return: shaped as the inputs; zeros where nothing depends on them. The graph is kept for the next product
    """
    pairs = [(output, direction) for output, direction in zip(outputs, directions, strict=True) if output.requires_grad]
    if not pairs:
        return tuple(th.zeros_like(tensor) for tensor in inputs)
    with_graph, along = zip(*pairs, strict=True)
    return th.autograd.grad(with_graph, inputs, along, retain_graph=True, materialize_grads=True)
