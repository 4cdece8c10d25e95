"""The contract of a linear solver for (H + λI) s = g."""

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch as th

from sb3_trpo_fvp.check.finding import Finding, judge, relative_error
from sb3_trpo_fvp.linalg.conjugate_gradient import CGSolution, CGStatus

Solver: TypeAlias = Callable[..., CGSolution]
"""``solve(matvec, b, *, max_steps, rtol)``, as :func:`~sb3_trpo_fvp.linalg.conjugate_gradient.conjugate_gradient`."""


class _Counted:
    """A matrix that counts its products, and can spoil them from some product on."""

    def __init__(self, matrix: th.Tensor, spoil_from: int | None = None):
        self.matrix = matrix
        self.count = 0
        self._spoil_from = spoil_from

    def __call__(self, v: th.Tensor) -> th.Tensor:
        self.count += 1
        product = self.matrix.to(v.dtype) @ v
        return math.nan * product if self._spoil_from is not None and self.count >= self._spoil_from else product


def check_solver(solve: Solver, *, size: int = 24, seed: int = 0) -> Iterator[Finding]:
    """
    Look at the promises of a solver, on systems in double precision whose spectrum is known.

    :param solve: ``solve(matvec, b, *, max_steps, rtol)``, returning a
        :class:`~sb3_trpo_fvp.linalg.conjugate_gradient.CGSolution`
    :param size: P, unknowns of the systems
    :param seed: of matrix and right-hand side
    :return: one finding for each promise
    """
    generator = th.Generator().manual_seed(seed)
    q, _ = th.linalg.qr(th.randn(size, size, generator=generator, dtype=th.float64))
    b = th.randn(size, generator=generator, dtype=th.float64)
    matrix = q @ th.diag(th.logspace(-1, 1, size, dtype=th.float64)) @ q.T
    given, states = b.clone(), th.get_rng_state()

    a = _Counted(matrix)
    solution = solve(a, b, max_steps=4 * size, rtol=1e-10)
    residual = float((b - matrix @ solution.value).norm())
    solved = solution.status is CGStatus.CONVERGED and residual <= 1e-8 * float(b.norm())
    yield judge("solution", solved, f"{solution.status.name} at a relative residual of {residual / float(b.norm()):.1e}")
    yield judge("counted steps", solution.num_steps == a.count, f"num_steps={solution.num_steps}, products={a.count}")
    yield judge("right-hand side kept", bool(th.equal(b, given)), "`b` must not be changed")
    again = solve(_Counted(matrix), b, max_steps=4 * size, rtol=1e-10)
    alike = bool(th.equal(again.value, solution.value)) and bool(th.equal(states, th.get_rng_state()))
    yield judge("repeatability", alike, "the same system has the same solution, and no random number is drawn")

    a = _Counted(matrix)
    short = solve(a, b, max_steps=3, rtol=0.0)
    stopped = a.count <= 3 and short.num_steps <= 3 and short.status is CGStatus.MAX_STEPS
    yield judge("max_steps", stopped, f"{a.count} products and {short.status.name} for max_steps=3")
    descent = float(b @ short.value)
    yield judge("ascent", descent > 0.0, f"bᵀx = {descent:.1e} after 3 steps")
    residual = float((b - matrix @ short.value).norm())
    error = abs(short.residual_norm - residual) / residual
    yield judge("residual_norm", error <= 1e-6, f"‖b − Ax‖ is told with a relative error of {error:.1e}")
    form = float(short.value @ matrix @ short.value)
    error = abs(short.quadratic_form - form) / max(abs(form), 1e-300)
    yield judge("quadratic_form", error <= 1e-6, f"xᵀAx is told with a relative error of {error:.1e}")
    scaled = solve(_Counted(matrix), 1e-12 * b, max_steps=3, rtol=0.0)
    error = relative_error(scaled.value, 1e-12 * short.value)
    alike = error <= 1e-6 and scaled.num_steps == short.num_steps
    yield judge("scale", alike, f"a right-hand side 1e-12 times as large: relative error {error:.1e}")

    loose = solve(_Counted(matrix), b, max_steps=4 * size, rtol=0.3)
    residual = float((b - matrix @ loose.value).norm() / b.norm())
    early = loose.status is CGStatus.CONVERGED and residual <= 0.3 and loose.num_steps < solution.num_steps
    yield judge("rtol", early, f"{loose.num_steps} steps to a relative residual of {residual:.1e} for rtol=0.3")

    a = _Counted(matrix)
    zero = solve(a, th.zeros_like(b), max_steps=size, rtol=1e-10)
    nothing = zero.status is CGStatus.ZERO_RHS and not zero.value.any() and a.count == 0
    yield judge("zero right-hand side", nothing, f"{zero.status.name} after {a.count} products")
    indefinite = solve(_Counted(-matrix), b, max_steps=size, rtol=1e-10)
    named = indefinite.status is CGStatus.NONPOSITIVE_CURVATURE and bool(th.isfinite(indefinite.value).all())
    yield judge("negative curvature", named, f"{indefinite.status.name} for −A")
    for promise, system, rhs in (
        ("NaN in a product", _Counted(matrix, spoil_from=2), b),
        ("NaN in the right-hand side", _Counted(matrix), math.nan * b),
    ):
        spoiled = solve(system, rhs, max_steps=size, rtol=1e-10)
        named = spoiled.status is CGStatus.NONFINITE and bool(th.isfinite(spoiled.value).all())
        yield judge(promise, named, f"{spoiled.status.name}; the value must stay finite")
    single = solve(_Counted(matrix), b.float(), max_steps=4 * size, rtol=1e-4).value
    error = relative_error(single, solution.value)
    alike = single.dtype is th.float32 and single.shape == b.shape and error <= 1e-2
    yield judge("dtype", alike, f"{single.dtype} for a right-hand side of torch.float32, relative error {error:.1e}")
