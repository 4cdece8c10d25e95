"""The contract of a linearisation: J and Jᵀ are each other's adjoint."""

from collections.abc import Iterator

import torch as th

from sb3_trpo_fvp.check.finding import Finding, judge, relative_error, tolerance
from sb3_trpo_fvp.linearization.base import Linearization


def check_linearization(linearization: Linearization, num_parameters: int, *, seed: int = 0) -> Iterator[Finding]:
    """
    Look at the promises of a :class:`~sb3_trpo_fvp.linearization.base.Linearization`; that J is the derivative of the right
    function is a promise of the operator that uses it.

    :param linearization: J, with ``outputs`` that say what shapes it has
    :param num_parameters: P
    :param seed: of the random directions
    :return: one finding for each promise
    """
    outputs: tuple[th.Tensor, ...] = linearization.outputs  # type: ignore[attr-defined]
    like = outputs[0]
    generator = th.Generator(like.device).manual_seed(seed)

    def draw(shape: tuple[int, ...]) -> th.Tensor:
        return th.randn(shape, generator=generator, dtype=like.dtype, device=like.device)

    v, w = draw((num_parameters,)), draw((num_parameters,))
    u, t = ([draw(tuple(output.shape)) for output in outputs] for _ in range(2))
    jv, jw, ju, jt = linearization.jvp(v), linearization.jvp(w), linearization.vjp(u), linearization.vjp(t)
    shapes = [tuple(tangent.shape) for tangent in jv], tuple(ju.shape)
    fits = shapes == ([tuple(output.shape) for output in outputs], (num_parameters,))
    yield judge("shape", fits, f"Jv has {shapes[0]}, Jᵀu has {shapes[1]}")
    if not fits:
        return
    most = tolerance(like.dtype)
    forward = sum(float((a.double() * b.double()).sum()) for a, b in zip(jv, u, strict=True))
    backward = float((v.double() * ju.double()).sum())
    # In units of what the sum of so many products of random sign has.
    size = float(v.double().norm() * ju.double().norm()) / max(num_parameters, 1) ** 0.5
    gap = abs(forward - backward) / max(size, abs(forward), 1e-300)
    yield judge("adjointness", gap <= most, f"⟨Jv, u⟩ and ⟨v, Jᵀu⟩ differ by {gap:.1e}")

    sums = linearization.jvp(2.0 * v - 0.5 * w), linearization.vjp([2.0 * a - 0.5 * b for a, b in zip(u, t, strict=True)])
    expected = [2.0 * a - 0.5 * b for a, b in zip(jv, jw, strict=True)], 2.0 * ju - 0.5 * jt
    error = max(relative_error(sums[0], expected[0]), relative_error(sums[1], expected[1]))
    yield judge("linearity", error <= most, f"relative error {error:.1e}")

    error = max(relative_error(linearization.jvp(v), jv), relative_error(linearization.vjp(u), ju))
    yield judge("repeatability", error <= most, f"the same products differ by {error:.1e} when repeated")

    out = draw((num_parameters,))
    total = out + ju
    returned = linearization.vjp(u, out=out)
    error = relative_error(out, total)
    yield judge("accumulation", returned is out and error <= most, f"vjp(u, out) adds to `out` with an error of {error:.1e}")
