"""The import swap: areas under training curves, and what is reported of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning.swap import POINTS, RESULTS, SwapRun, collect, curve, read, table
from sb3_trpo_fvp.zoo.sweeps.sweep import Sweep


def copy(ends: list[int], returns: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(ends, dtype=int), np.array(returns, dtype=float)


def test_each_step_counts_with_its_episode() -> None:
    # Steps 0 to 40 are of the first episode, 40 to 60 of the second, and the rest of one that never ended.
    found = curve([copy([40, 60], [1.0, 4.0])], 100, points=5)
    assert found == pytest.approx([1.0, 1.0, 4.0, 4.0, 4.0])
    assert curve([copy([40, 60], [1.0, 4.0])], 100, points=1) == pytest.approx([0.4 * 1.0 + 0.6 * 4.0])


def test_an_episode_beyond_the_budget_counts_up_to_it() -> None:
    assert curve([copy([50, 130], [2.0, 6.0])], 100, points=2) == pytest.approx([2.0, 6.0])


def test_copies_are_averaged_and_those_without_an_episode_left_out() -> None:
    copies = [copy([100], [1.0]), copy([50, 100], [3.0, 5.0]), copy([], [])]
    assert curve(copies, 100, points=2) == pytest.approx([2.0, 3.0])
    with pytest.raises(ValueError, match="finished an episode"):
        curve([copy([], [])], 100)


def test_the_area_is_the_mean_of_any_grid() -> None:
    generator = np.random.default_rng(0)
    ends = np.cumsum(generator.integers(1, 500, size=40))
    returns = generator.normal(size=40)
    covering = returns[np.minimum(np.searchsorted(ends, np.arange(1, 7001)), 39)]
    for points in (1, 7, POINTS):
        assert curve([(ends, returns)], 7000, points).mean() == pytest.approx(covering.mean())


def written(folder: Path, variant: str, seed: int, first: float) -> None:
    (folder / "zoo").mkdir(parents=True)
    for index, returns in enumerate((first, first + 2.0)):
        lines = ['#{"t_start": 0.0, "env_id": "A-v0"}', "r,l,t", f"{returns},25,0.1", f"{returns + 10.0},25,0.2"]
        (folder / "zoo" / f"{index}.monitor.csv").write_text("\n".join(lines) + "\n")
    (folder / "zoo" / "progress.csv").write_text("time/total_timesteps,time/learn_cpu_seconds\n50,1.0\n100,2.504\n")
    finished = {
        "variant": variant,
        "parameters": {"algo": variant, "env": "A-v0 n_timesteps=100", "seed": seed},
        "seconds": 9.0,
        "folder": "zoo",
        "versions": {"cpu": "one"},
    }
    (folder / "finished.json").write_text(json.dumps(finished))


def test_training_curves_are_collected_and_read_back(tmp_path: Path) -> None:
    written(tmp_path / "sweep" / "run", "trpo", 3, 1.0)
    assert collect(tmp_path / "sweep", tmp_path / "results") == 1
    (found,) = read(tmp_path / "results")
    assert (found.variant, found.env, found.seed, found.machine, found.cpu_seconds) == ("trpo", "A-v0", 3, "one", 2.5)
    assert (len(found.steps), found.steps[0], found.steps[-1]) == (POINTS, 2, 100)
    # Two copies: an episode of 25 steps of one is 50 of the run.
    assert found.returns == pytest.approx([2.0] * 25 + [12.0] * 25)
    assert (found.area, found.final) == (7.0, 12.0)


def run(variant: str, env: str, seed: int, area: float) -> SwapRun:
    steps = np.linspace(2000, 100_000, POINTS).astype(int)
    return SwapRun(variant, env, seed, steps, np.full(POINTS, area), area, area, 2.0 if variant == "trpo" else 0.8, "one")


def test_the_table_copes_with_arms_that_are_not_there() -> None:
    assert table([]) == "No run yet."
    theirs = [run("trpo", env, seed, 5.0 + seed) for env in ("A-v0", "B-v0") for seed in range(3)]
    alone = table(theirs)
    assert "| A-v0 | 100,000 | 3 / 0 | 6.0 [5.0, 7.0] | – | – | – |" in alone
    assert "all" not in alone.splitlines()[-1]
    ours = [run("trpo_fvp", "A-v0", seed, 200.0) for seed in range(2)]
    both = table([*theirs, *ours])
    assert "| A-v0 | 100,000 | 3 / 2 | 6.0 [5.0, 7.0] | 200 [200, 200] | 1.00 [1.00, 1.00] | 2.50 |" in both
    assert "| B-v0 | 100,000 | 3 / 0 | 6.0 [5.0, 7.0] | – | – | – |" in both
    assert both.splitlines()[-1] == "| all 1 that both have |  |  |  |  | 1.00 [1.00, 1.00] | 2.50 (median) |"


def test_results_are_runs_of_the_sweep() -> None:
    wanted = {run.name: run for run in Sweep.load("defaults").runs()}
    found = sorted(RESULTS.glob("*.json"))
    assert found
    assert {path.stem for path in found} <= set(wanted)
    for path, of in zip(found, read(), strict=True):
        assert of.area == pytest.approx(of.returns.mean(), rel=1e-4, abs=1e-4)
        assert of.steps[-1] == wanted[path.stem].options["n_timesteps"]
