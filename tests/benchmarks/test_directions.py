"""The study of directions measures what it says, and the page says what its results say."""

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from benchmarks import directions
from benchmarks.directions import CANDIDATES, compare
from tests.helpers.models import make_batch


def test_directions_are_measured_against_gauss_newton_on_all_states() -> None:
    th.manual_seed(0)
    policy = ActorCriticPolicy(spaces.Box(-9, 9, (4,)), spaces.Box(-1, 1, (2,)), lambda _: 1e-3)
    observations, actions = make_batch(policy, 400)
    before = [parameter.clone() for parameter in policy.parameters()]
    found = dict(compare(policy, observations, actions, th.randn(400), damping=0.1, target_kl=0.01))
    assert all(th.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    assert {key.rpartition("_")[0] for key in found if key.endswith("_kl")} == {f"directions/{k}_{n}" for k, n in CANDIDATES}
    for kind in ("gauss_newton_1", "kl_hessian_1"):
        assert found[f"directions/{kind}_cosine"] == pytest.approx(1.0, abs=1e-4)
        assert found[f"directions/{kind}_efficiency"] == pytest.approx(1.0, abs=1e-4)
        assert found[f"directions/{kind}_kl"] == pytest.approx(1.0, abs=0.2)
    # The reference's direction solves with λ: it is a little off the most efficient one there is.
    assert all(found[f"directions/{kind}_{n}_efficiency"] < 1.05 for kind, n in CANDIDATES)
    assert found["directions/empirical_8_efficiency"] < found["directions/empirical_1_efficiency"] < 0.99
    assert found["directions/gauss_newton_1_steps_0.01"] > found["directions/gauss_newton_1_steps_0.1"] > 0


def test_the_page_has_the_table_of_the_directions() -> None:
    shown = f"<!-- directions:start -->\n{directions.table(directions.read())}\n<!-- directions:end -->"
    assert shown in directions.PAGE.read_text(encoding="utf-8")
