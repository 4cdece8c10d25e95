"""The Hessian, formed, gives the direction of the products, and the page says what the results say."""

import json

import torch as th

from benchmarks import naive_hessian
from sb3_trpo_fvp import fisher_operator
from tests.helpers.models import make_batch, make_policy


def test_the_naive_hessian_gives_the_direction_of_the_products() -> None:
    policy = make_policy("gaussian", dtype=th.float32)
    observations, actions = make_batch(policy, 50)
    operator = fisher_operator(policy, observations, actions)
    g = th.randn(operator.shape[0])
    naive = naive_hessian.naive(policy, observations, actions, g)(operator.shape[0])
    products = naive_hessian.products(policy, observations, actions, g)(0).value
    residual = operator @ naive + naive_hessian.DAMPING * naive - g
    assert float(residual.norm() / g.norm()) < 1e-3
    residual = operator @ products + naive_hessian.DAMPING * products - g
    assert float(residual.norm() / g.norm()) < 0.16  # the default tolerance
    rest = naive_hessian.naive(policy, observations, actions, g)(3)
    assert isinstance(rest, float)
    assert rest >= 0.0


def test_the_page_has_the_table_of_the_naive_hessian() -> None:
    results = json.loads(naive_hessian.RESULTS.read_text(encoding="utf-8"))
    shown = f"<!-- naive:start -->\n{naive_hessian.table(results)}\n<!-- naive:end -->"
    assert shown in naive_hessian.PAGE.read_text(encoding="utf-8")
