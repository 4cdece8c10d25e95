"""What an operator is measured by, on matrices of known spectrum."""

import math

import pytest
import torch as th

from sb3_trpo_fvp import FisherOperator
from sb3_trpo_fvp.check.contracts import failures
from sb3_trpo_fvp.check.contracts.fisher_operator import measured_findings
from sb3_trpo_fvp.check.measure import measure_operator


class Matrix(FisherOperator):
    """A dense matrix as an operator."""

    def __init__(self, matrix: th.Tensor):
        self.matrix = matrix
        self.parameters = (th.nn.Parameter(th.zeros(len(matrix), dtype=matrix.dtype)),)
        self.shape = (len(matrix), len(matrix))

    def matvec(self, v: th.Tensor) -> th.Tensor:
        return self.matrix @ v.to(self.matrix.dtype)


def test_asymmetry_and_negative_eigenvalues_are_found() -> None:
    th.manual_seed(0)
    q, _ = th.linalg.qr(th.randn(8, 8, dtype=th.float64))
    spectrum = th.tensor([-0.5, 0.1, 0.2, 0.3, 1.0, 2.0, 3.0, 4.0], dtype=th.float64)
    symmetric = q @ th.diag(spectrum) @ q.T
    vectors = [th.randn(8, dtype=th.float64) for _ in range(3)]
    indefinite = measure_operator("indefinite", Matrix(symmetric), vectors, [symmetric @ v for v in vectors], 8)
    assert indefinite.relative_error < 1e-12
    assert indefinite.asymmetry < 1e-12
    assert indefinite.smallest_ritz == pytest.approx(-0.5)
    assert indefinite.largest_ritz == pytest.approx(4.0)
    skew = measure_operator("skew", Matrix(symmetric + th.triu(th.ones(8, 8))), vectors, None, 8)
    assert skew.asymmetry > 0.01
    assert math.isnan(skew.cosine)
    nan = measure_operator("nan", Matrix(math.nan * symmetric), vectors, None, 8)
    identity = measure_operator("identity", Matrix(th.eye(8, dtype=th.float64)), vectors, None, 8)
    broken = {r.name: [f.promise for f in failures(measured_findings(r))] for r in (indefinite, skew, nan, identity)}
    assert broken["indefinite"] == ["semi-definiteness"]
    assert broken["skew"][0] == "symmetry"
    assert broken["nan"] == ["finite"]
    assert broken["identity"] == []
