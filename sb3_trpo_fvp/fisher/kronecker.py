"""
A Kronecker-factored preconditioner for conjugate gradients on the Fisher matrix (Martens and Grosse, 2015).

For a linear layer with input a, 1 appended, and score g at its output, the layer's block of the Fisher matrix is
E[aaᵀ ⊗ ggᵀ] ≈ E[aaᵀ] ⊗ E[ggᵀ]: too crude to take a step by, and close enough to make a few conjugate-gradient steps do
what dozens do without. The exact products still decide where the solve ends.
"""

import math
from dataclasses import dataclass

import torch as th
from torch import nn

from sb3_trpo_fvp.fisher.operator import Average
from sb3_trpo_fvp.linalg.conjugate_gradient import Preconditioner
from sb3_trpo_fvp.linalg.vectors import all_finite
from sb3_trpo_fvp.linearization.actor import LinearizedActor
from sb3_trpo_fvp.linearization.layers import LinearLayer

_SMALLEST_DAMPING = 1e-6
_STATES, _STATES_PER_ROW = 1024, 4
"""Of how many states the factors are means, at least, and how many for each row of the largest: more save no product."""


@dataclass(frozen=True)
class _Block:
    """
    Where a linear layer's parameters lie, and the eigenvectors and damped inverse eigenvalues of its two factors.

    :param weight: of the weight, in the flat vector
    :param bias: of the bias, None if there is none
    :param inputs: eigenvectors of E[aaᵀ], (n_in [+ 1], ...)
    :param outputs: eigenvectors of E[ggᵀ], (n_out, n_out)
    :param inverse: 1 / (eigenvalues of the product + λ), (n_out, n_in [+ 1])
    """

    weight: slice
    bias: slice | None
    inputs: th.Tensor
    outputs: th.Tensor
    inverse: th.Tensor

    def solve(self, r: th.Tensor, out: th.Tensor) -> None:
        """Write this block's part of M⁻¹r."""
        v = r[self.weight].view(len(self.outputs), -1)
        if self.bias is not None:
            v = th.cat([v, r[self.bias].unsqueeze(1)], dim=1)
        v = self.outputs @ ((self.outputs.t() @ v @ self.inputs) * self.inverse) @ self.inputs.t()
        if self.bias is not None:
            out[self.bias] = v[:, -1]
            v = v[:, :-1]
        out[self.weight] = v.reshape(-1)


@th.no_grad()
def kronecker_preconditioner(
    actor: LinearizedActor, actions: th.Tensor, damping: float, average: Average = list
) -> Preconditioner | None:
    """
    Approximate (F + λI)⁻¹, block by block, from the scores of the actions taken.

    Costs about two products of a small network: a backward pass, and the eigendecomposition of two small matrices a layer.

    :param actor: on N states, with P parameters
    :param actions: taken there, (N, A) as rollout buffers hold them
    :param damping: λ ≥ 0
    :param average: puts the factors of several processes together
    :return: the preconditioner, None if the actor is not a plain stack of linear layers and activations
    """
    factors = _factors(actor, actions)
    if factors is None:
        return None
    layers, inputs, outputs = factors
    pooled = list(average([*inputs, *outputs]))
    blocks = []
    for layer, a, g in zip(layers, pooled[: len(layers)], pooled[len(layers) :], strict=True):
        block = _block(layer, a, g, damping)
        if block is None:
            return None
        blocks.append(block)
    # The scores of μ and of log σ are uncorrelated, and E[(∂ log π / ∂ log σ)²] = 2.
    stack = actor.stack
    log_std = None if stack is None or stack.log_std is None else stack.slots.get(stack.log_std)

    def solve(r: th.Tensor) -> th.Tensor:
        result = th.empty_like(r)
        for block in blocks:
            block.solve(r, result)
        if log_std is not None:
            result[log_std] = r[log_std] / (2.0 + damping)
        return result

    return solve


def _factors(actor: LinearizedActor, actions: th.Tensor) -> tuple[list[LinearLayer], list[th.Tensor], list[th.Tensor]] | None:
    """Return the layers with parameters, and E[aaᵀ] and E[ggᵀ] of each; None where another kind has parameters."""
    stack = actor.stack
    if stack is None:
        return None
    trained = [module for module in stack.layers if any(parameter in stack.slots for parameter in module.parameters())]
    if any(type(module) is not nn.Linear or not stack.slots.keys() >= set(module.parameters()) for module in trained):
        return None
    widest = max((max(module.weight.shape) for module in trained if isinstance(module, nn.Linear)), default=1)
    step = max(1, actor.size // max(_STATES, _STATES_PER_ROW * widest))
    used = sum(len(range(*chunk.indices(actor.size)[:2], step)) for chunk in actor.chunks)
    layers: list[LinearLayer] = []
    inputs: list[th.Tensor] = []
    outputs: list[th.Tensor] = []
    for chunk in actor.chunks:
        phi = actor.linearize(chunk)
        score = actor.score(phi, actions[chunk])
        if score is None:
            return None
        backward = phi.subsample(step).backward([u[::step] for u in score])
        reached = [(layer, g) for layer, g in backward if isinstance(layer, LinearLayer) and layer.has_parameters]
        layers = [layer for layer, _ in reached]
        if not inputs:
            inputs = [layer.weight.new_zeros(layer.num_inputs, layer.num_inputs) for layer in layers]
            outputs = [layer.weight.new_zeros(len(layer.weight), len(layer.weight)) for layer in layers]
        for (layer, g), aa, gg in zip(reached, inputs, outputs, strict=True):
            columns = layer.x.shape[1]
            aa[:columns, :columns].addmm_(layer.x.t(), layer.x, alpha=1.0 / used)
            if layer.bias_slot is not None:  # a column of ones
                mean = layer.x.sum(0).div_(used)
                aa[columns, :columns] += mean
                aa[:columns, columns] += mean
                aa[columns, columns] += len(layer.x) / used
            gg.addmm_(g.t(), g, alpha=1.0 / used)
    return layers, inputs, outputs


def _block(layer: LinearLayer, aa: th.Tensor, gg: th.Tensor, damping: float) -> _Block | None:
    """Invert one block; None where that overflows or does not converge: conjugate gradients do without, then."""
    if not all_finite((aa, gg)):
        return None
    try:
        a, u = th.linalg.eigh(aa)
        g, w = th.linalg.eigh(gg)
    except th.linalg.LinAlgError:  # type: ignore[attr-defined]
        return None
    eigenvalues = th.outer(g.clamp(min=0.0), a.clamp(min=0.0))
    if not all_finite(eigenvalues):
        return None
    # Without damping, directions that were not seen have no curvature at all.
    floor = max(damping, _SMALLEST_DAMPING * float(eigenvalues.max()), math.ulp(0.0))
    assert layer.weight_slot is not None
    return _Block(layer.weight_slot, layer.bias_slot, u, w, 1.0 / (eigenvalues + floor))
