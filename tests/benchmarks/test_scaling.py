"""The cost model of benchmarks.scaling: it finds the link that made the samples, and its knobs point the right way."""

from dataclasses import replace

import pytest

from benchmarks.scaling.measure import KNOBS
from benchmarks.scaling.model import Link, Work, efficiency, fit_link, most_ranks, slowest_of, update_seconds
from benchmarks.scaling.report import report, work_of
from sb3_trpo_fvp import TRPO

LINK = Link(latency=50e-6, bandwidth=1e9)
WORK = Work(states=2048, rollout=1.0, rollout_std=0.05, train=0.3, messages=200, size=2e7)


def test_the_fit_finds_the_link() -> None:
    sizes = (64, 4_000, 120_000, 8_000_000)
    link = fit_link([(ranks, size, LINK.seconds(ranks, 1, size)) for ranks in (2, 4) for size in sizes])
    assert link.latency == pytest.approx(LINK.latency)
    assert link.bandwidth == pytest.approx(LINK.bandwidth)


def test_one_rank_pays_for_its_work_alone() -> None:
    assert update_seconds(WORK, LINK, 1) == pytest.approx(WORK.rollout + WORK.train)
    assert efficiency(WORK, LINK, 1) == 1.0


def test_the_slowest_of_many_is_slower() -> None:
    # Expected maxima of 2 and 4 standard normals: 1/√π and 1.0294.
    assert slowest_of(1) == pytest.approx(0.0)
    assert slowest_of(2) == pytest.approx(0.564, abs=0.03)
    assert slowest_of(4) == pytest.approx(1.029, abs=0.03)


def test_scaling_ends_where_half_of_the_ideal_is_left_and_fewer_messages_move_it() -> None:
    point = most_ranks(WORK, LINK)
    assert efficiency(WORK, LINK, point) >= 0.5 > efficiency(WORK, LINK, point + 1)
    assert most_ranks(replace(WORK, messages=50), LINK) > point
    assert most_ranks(replace(WORK, rollout=4.0, train=1.2), LINK) > point
    assert most_ranks(replace(WORK, train=0.1), LINK) < point


def test_few_ranks_bring_their_states_together() -> None:
    work = replace(WORK, fit=0.1, fit_messages=160, fit_size=1.6e7, gathered=1e6)
    two = work.on(2)
    assert two.train == pytest.approx(WORK.train + 0.1)
    assert two.messages == 200 - 160 + 10
    # An all-gather of W parts sends W - 1 of them over each link, an all-reduce of S bytes 2 (W - 1) / W of S.
    assert LINK.seconds(2, 0, two.size - (2e7 - 1.6e7)) == pytest.approx(1e6 / LINK.bandwidth)
    assert work.on(1) == work
    assert work.on(5) == work
    slow = Link(latency=5e-3, bandwidth=1e9)
    assert update_seconds(work, slow, 2) < update_seconds(WORK, slow, 2)
    assert most_ranks(work, slow) > most_ranks(WORK, slow)


@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_is_an_argument(name: str) -> None:
    TRPO("MlpPolicy", "CartPole-v1", **{"n_steps": 1024, "batch_size": 128, "device": "cpu", **KNOBS[name]})


def test_the_report_is_written_from_the_results() -> None:
    run = {
        "update": 1.3,
        "rollout": 1.0,
        "communication": 0.1,
        "parameters": 1000,
        "states": 2048,
        "messages": 200,
        "megabytes": 20,
        "fit": 0.2,
        "fit_messages": 160,
        "fit_megabytes": 16,
        "gathered_megabytes": 3,
    }
    cpu = {"update_cpu": 1.25, "rollout_cpu": 1.0, "rollout_cpu_std": 0.05}
    results = {
        "env": "Humanoid-v5",
        "n_envs": 2,
        "environment": {"cpu": "a processor", "cpu_count": 2, "commit": "abc", "note": "Shared."},
        "loads": [0.1],
        "runs": {
            "adam": {
                "1": [{**run, **cpu, "steps_per_second": 100.0}] * 2,
                "2": [{**run, **cpu, "steps_per_second": speed} for speed in (180.0, 200.0)],
                "apart": [[{"steps_per_second": 98.0}, {"steps_per_second": 102.0}]] * 2,
            }
        },
        "all_reduces": [(2, 64, 1e-4), (2, 8_000_000, 1e-2)],
    }
    results["works"] = {"as measured": vars(work_of(results["runs"]["adam"]["1"]))}
    text = report(results)
    assert "1.90 ×" in text
    assert "95% of that" in text
    assert "8% of its time" in text
    assert "**Shared.**" in text
