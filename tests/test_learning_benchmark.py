"""The learning benchmark reports what its committed results say; what they say is not asserted."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import learning
from benchmarks.learning import BASELINE, NAMES, Run, aggregate, collect, draw, matched, normalised, read, section
from sb3_trpo_fvp.zoo.sweep import Sweep

OURS = "trpo_fvp fisher=gauss_newton"
REFERENCES = {"A-v0": {"random": -100.0, "reference": 100.0}, "B-v0": {"random": 0.0, "reference": 10.0}}


def run(variant: str, env: str, seed: int, final: float) -> Run:
    returns = np.full((6, 5), final)
    returns[:3] = -1e6  # only the last three evaluations count
    return Run(variant, env, seed, np.arange(1, 7) * 10_000, returns, cpu_seconds=2.0 if variant == BASELINE else 1.0, kl=0.01)


RUNS = [
    *(run(BASELINE, env, seed, final) for env, final in (("A-v0", 0.0), ("B-v0", 4.0)) for seed in range(3)),
    *(run(OURS, env, seed, final) for env, final in (("A-v0", 50.0), ("B-v0", 6.0)) for seed in range(2)),
]


def test_every_algorithm_of_the_sweep_has_a_name() -> None:
    assert list(NAMES) == list(dict.fromkeys(run.variant for run in Sweep.load("benchmark").runs()))


def test_the_references_are_of_the_environments_of_the_sweep() -> None:
    references = json.loads(learning.REFERENCES.read_text(encoding="utf-8"))
    assert set(references) == {run.options["env"] for run in Sweep.load("benchmark").runs()}
    assert all(scores["random"] < scores["reference"] for scores in references.values())


def test_only_what_both_have_done_is_compared() -> None:
    pair = matched(RUNS, (BASELINE, OURS))
    assert set(pair[BASELINE]) == set(pair[OURS]) == {("A-v0", 0), ("A-v0", 1), ("B-v0", 0), ("B-v0", 1)}


def test_scores_and_aggregates_are_those_of_the_definition() -> None:
    scores = {variant: normalised(of, REFERENCES) for variant, of in matched(RUNS, (BASELINE, OURS)).items()}
    assert scores[BASELINE].tolist() == [[0.5, 0.4]] * 2
    assert scores[OURS].tolist() == [[0.75, 0.6]] * 2
    found = aggregate(scores)
    assert found[f"iqm {BASELINE}"][0] == pytest.approx(0.45)  # of 0.4, 0.4, 0.5, 0.5 the middle half
    assert found[f"iqm {OURS}"][0] == pytest.approx(0.675)
    assert found[f"improvement {OURS}"] == (1.0, 1.0, 1.0)


def test_the_section_compares_and_says_how_many_runs() -> None:
    text = section(RUNS, REFERENCES)
    assert "4 runs of each" in text
    assert "| A-v0 | 2 | 0 [0, 0] | 50 [50, 50] | 2.00 × | 0.0100 / 0.0100 |" in text


def test_finished_runs_are_collected_and_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "sweep" / "run"
    (folder / "zoo").mkdir(parents=True)
    returns = np.array([[1.0, 2.0], [3.0, 4.005]])
    np.savez(folder / "zoo" / "evaluations.npz", timesteps=[10, 20], results=returns)
    (folder / "zoo" / "progress.csv").write_text("time/total_timesteps,train/kl_divergence_loss\n5,0.1\n10,0.3\n")
    parameters = {"algo": OURS, "env": "A-v0", "seed": 3}
    finished = {
        "variant": OURS,
        "parameters": parameters,
        "seconds": 9.0,
        "cpu_seconds": 5.04,
        "folder": "zoo",
        "versions": {},
    }
    (folder / "finished.json").write_text(json.dumps(finished))
    (tmp_path / "sweep" / "unfinished").mkdir()
    assert collect(tmp_path / "sweep", tmp_path / "results") == 1
    (found,) = read(tmp_path / "results")
    assert (found.variant, found.env, found.seed, found.cpu_seconds) == (OURS, "A-v0", 3, 5.0)
    assert found.kl == pytest.approx(0.2)
    assert found.final == pytest.approx(returns.mean(), abs=0.01)


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    draw(RUNS, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_the_page_says_what_the_results_say() -> None:
    references = json.loads(learning.REFERENCES.read_text(encoding="utf-8"))
    assert section(read(), references) in learning.PAGE.read_text(encoding="utf-8")
