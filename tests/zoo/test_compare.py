"""``compare``: intervals, what it reads of a run, and its table, figure and numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sb3_trpo_fvp.cli import main
from sb3_trpo_fvp.zoo.compare import command as compare
from sb3_trpo_fvp.zoo.compare import summary
from sb3_trpo_fvp.zoo.results import load_results
from tests.helpers.results import finished_run


def test_the_interval_covers_the_mean_and_is_repeatable() -> None:
    samples = np.random.default_rng(0).normal(size=(5, 7))
    mean, low, high = summary.bootstrap(samples)
    assert mean.shape == low.shape == high.shape == (7,)
    np.testing.assert_array_equal(mean, samples.mean(axis=0))
    assert (low < mean).all()
    assert (mean < high).all()
    np.testing.assert_array_equal(low, summary.bootstrap(samples)[1])
    one = summary.estimate([3.0])
    assert (one.mean, one.low, one.high) == (3.0, 3.0, 3.0)
    assert str(one) == "3.00"  # one seed has no interval
    assert str(summary.estimate([100.0, 104.0])) == "102 [100, 104]"


def test_the_interval_of_a_large_sample_is_the_textbooks() -> None:
    samples = np.random.default_rng(1).normal(size=400)
    mean, low, high = summary.bootstrap(samples)
    half = 1.96 * samples.std() / np.sqrt(len(samples))
    assert (float(mean - low), float(high - mean)) == pytest.approx((half, half), rel=0.1)


def test_what_is_measured_is_what_the_runs_wrote(tmp_path: Path) -> None:
    theirs = [
        finished_run(tmp_path / "a", 4.0, [0.02, 0.04], [1.0, 3.0]),
        finished_run(tmp_path / "b", 6.0, [0.005, 0.04], [2.0, 5.0]),
    ]
    ours = [
        finished_run(tmp_path / "c", 2.0, [0.01, 0.008], [1.0, 4.0]),
        finished_run(tmp_path / "d", 2.0, [0.01, 0.009], [0.0, 6.0]),
    ]
    baseline, mine = summary.summarize("theirs", theirs), summary.summarize("ours", ours)
    assert baseline.final_return.per_seed == (3.0, 5.0)
    assert baseline.joint_kl.per_seed == pytest.approx((0.03, 0.0225))
    assert (baseline.kl_kept.mean, mine.kl_kept.mean) == (0.25, 1.0)
    assert baseline.steps_per_second.per_seed == pytest.approx((5.0, 20 / 6))
    assert baseline.times == [2.5, 5.0]
    assert baseline.kl_over_bound[0] == ([10, 20], [2.0, 4.0])
    assert summary.speedup(baseline, mine).per_seed == (2.0, 3.0)


def test_compare_trains_both_and_writes_table_figure_and_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "EVALUATIONS", 2)
    monkeypatch.setattr(compare, "EVALUATION_EPISODES", 1)
    command = ["compare", "--env", "CartPole-v1", "--seeds", "1", "-n", "2048"]
    assert main(command) == 0
    printed = capfd.readouterr().out
    folder = tmp_path / "logs" / "compare" / "CartPole-v1"
    for text in (
        "sb3-contrib TRPO",
        "joint KL of an update",
        "CG steps of an update",
        "line searches won",
        "steps per second",
    ):
        assert text in printed

    numbers = json.loads((folder / "compare.json").read_text())
    theirs, ours = numbers["algorithms"]
    results = {result.variant: result for result in load_results(folder)}
    assert results.keys() == {"trpo", "trpo_fvp fisher=gauss_newton"}
    for algorithm, result in zip((theirs, ours), (results["trpo"], results["trpo_fvp fisher=gauss_newton"]), strict=True):
        assert algorithm["final_return"]["mean"] == result.evaluations()[1][-1].mean()
        assert algorithm["joint_kl"]["mean"] == pytest.approx(result.logged("trust_region/kl")[1].mean())
        assert algorithm["target_kl"] == (0.0125 if "fvp" in algorithm["label"] else 0.01)
        assert len(algorithm["kl_over_bound"][0][0]) == len(result.logged("trust_region/kl")[1])  # one value an update
    ratio = numbers["time_of_baseline_over_ours"]["mean"]
    assert ratio == pytest.approx(theirs["seconds"]["mean"] / ours["seconds"]["mean"])
    with Image.open(folder / "compare.png") as image:
        assert image.width > 1200
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 24)) > 50

    assert main(command) == 0  # nothing is trained again
    assert "2 of 2 runs were finished before" in capfd.readouterr().out


def test_like_for_like_gives_ours_the_baselines_settings() -> None:
    theirs, ours = compare.plan("Hopper-v5", 2, 1000, "kl_hessian", like_for_like=True)
    assert [run.options["seed"] for run in ours] == [0, 1]
    assert ours[0].hyperparams == {"fisher": "kl_hessian", "kl_reduction": "mean", "damped_beta": True}
    assert Path(ours[0].options["conf_file"]).name == "trpo.yml"
    same = ("env", "n_timesteps", "eval_freq", "eval_episodes", "num_threads", "seed")
    assert [theirs[0].options[key] for key in same] == [ours[0].options[key] for key in same]
