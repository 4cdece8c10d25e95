"""The tool that holds a refactoring against the runs before it sees every difference."""

import json
from pathlib import Path

import pytest
import torch as th
from gymnasium import spaces

from tests.helpers import traces
from tests.helpers.models import make_model

BEFORE = {"box": ["a", "b", "c"], "two_ranks": [["a", "b"], ["a", "b"]]}


def test_the_same_runs_do_not_differ() -> None:
    assert traces.differences(BEFORE, json.loads(json.dumps(BEFORE))) == []


@pytest.mark.parametrize(
    ("after", "sentence"),
    [
        (["x", "b", "c"], "box: differs from update 0 on"),
        (["a", "b", "x"], "box: differs from update 2 on"),
        (["a", "b"], "box: differs from update 2 on"),
        (["a", "b", "c", "d"], "box: differs from update 3 on"),
        ([], "box: differs from update 0 on"),
    ],
)
def test_the_first_update_that_differs_is_named(after: list[str], sentence: str) -> None:
    assert traces.differences(BEFORE, {**BEFORE, "box": after}) == [sentence]


def test_a_rank_that_differs_is_a_difference() -> None:
    after = {**BEFORE, "two_ranks": [["a", "b"], ["a", "x"]]}
    assert traces.differences(BEFORE, after) == ["two_ranks: differs from update 1 on"]


def test_a_run_that_is_no_more_and_one_that_is_new_are_named() -> None:
    lost, new = traces.differences(BEFORE, {"box": BEFORE["box"], "image": ["a"]})
    assert lost == "two_ranks: is not recorded any more"
    assert new == "image: was not recorded before"


def test_the_digest_sees_one_bit_of_a_parameter_and_a_random_number() -> None:
    model = make_model(spaces.Discrete(2))
    before = traces.digest(model)
    assert traces.digest(model) == before
    with th.no_grad():
        bias = model.policy.action_net.bias
        bias[0] = th.nextafter(bias[0], bias[0] + 1)
        assert traces.digest(model) != before
        bias[0] = th.nextafter(bias[0], bias[0] - 1)
    assert traces.digest(model) == before
    th.rand(1)
    assert traces.digest(model) != before


def test_compare_says_what_differs_and_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "before.json"
    monkeypatch.setattr(traces, "RUNS", {"box": traces.RUNS["box"]})
    monkeypatch.setattr(traces, "trace_two_ranks", lambda folder: [["a"], ["a"]])
    monkeypatch.setattr(traces, "UPDATES", 1)
    assert traces.main(["record", str(file)]) == 0
    assert traces.main(["compare", str(file)]) == 0
    monkeypatch.setattr(traces, "RUNS", {"box": traces.RUNS["box"], "more": traces.RUNS["box"]})
    monkeypatch.setattr(traces, "trace_two_ranks", lambda folder: [["b"], ["a"]])
    assert traces.main(["compare", str(file)]) == 1
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "two_ranks: differs from update 0 on",
        "more: was not recorded before",
    ]
