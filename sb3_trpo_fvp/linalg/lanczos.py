"""Extreme eigenvalues of a symmetric matrix known by its products."""

import math
from collections.abc import Callable

import numpy as np
import torch as th


def ritz_values(matvec: Callable[[th.Tensor], th.Tensor], start: th.Tensor, num_steps: int) -> tuple[float, float]:
    """
    Bound the spectrum of a symmetric matrix from within, by Lanczos steps that are orthogonalised in full (Golub and Van
    Loan, Matrix Computations, section 10.1).

    :param matvec: v → Av, shapes (P,) → (P,), in the dtype of ``start``
    :param start: any vector but zero, shape (P,)
    :param num_steps: products to spend at most
    :return: the smallest and the largest Ritz value, bounds on the smallest eigenvalue from above and on the largest from
        below; NaN where a product is not finite
    """
    basis: list[th.Tensor] = []
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    q = start.double() / start.double().norm()
    for _ in range(min(num_steps, len(start))):
        basis.append(q)
        w = matvec(q.to(start.dtype)).double()
        diagonal.append(float(q @ w))
        for _twice in range(2):
            for b in basis:
                w = w - (b @ w) * b
        norm = float(w.norm())
        if not norm > 1e-6 * max(map(abs, diagonal)):
            break
        off_diagonal.append(norm)
        q = w / norm
    off = off_diagonal[: len(diagonal) - 1]
    tridiagonal = np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)
    if not np.isfinite(tridiagonal).all():
        return math.nan, math.nan
    values = np.linalg.eigvalsh(tridiagonal)
    return float(values[0]), float(values[-1])
