"""The study of the damping: its page, and that its judgement finds what it is meant to find."""

import json

import numpy as np
import pytest
import torch as th

from benchmarks import ROOT, damping
from sb3_trpo_fvp import fisher_operator
from tests.helpers.models import make_batch, make_policy


def test_the_page_has_the_table_of_the_results() -> None:
    table = damping.table(json.loads(damping.RESULTS.read_text(encoding="utf-8")))
    assert f"<!-- damping:start -->\n{table}\n<!-- damping:end -->" in damping.PAGE.read_text(encoding="utf-8")
    assert ROOT in damping.PAGE.parents


def test_on_the_same_half_the_natural_gradient_is_the_best_direction() -> None:
    """gᵀs/√(sᵀFs) is at most √(gᵀF⁻¹g), which the undamped solution reaches."""
    policy = make_policy("gaussian")
    observations, actions = make_batch(policy, 300)
    operator = fisher_operator(policy, observations, actions)
    dense = operator.to_dense().numpy()
    g = th.as_tensor(dense @ np.random.default_rng(0).standard_normal(len(dense)))
    half = (g, operator)
    judged = [damping._judge(half, half, value) for value in (1e-8, 1.0, 1e3)]
    assert judged[0] == pytest.approx(np.sqrt(g.numpy() @ np.linalg.lstsq(dense, g.numpy(), rcond=None)[0]), rel=1e-2)
    assert judged[0] >= judged[1] >= judged[2] > 0.0
