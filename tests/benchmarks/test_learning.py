"""The learning benchmark reports what its committed results say; what they say is not asserted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from rliable import metrics

from benchmarks.common.references import read_references
from benchmarks.common.statistics import difference, improvement, iqm, probability_of_improvement
from benchmarks.learning import reference
from benchmarks.learning.command import PAGES, parts
from benchmarks.learning.compare import agreement, ahead, matched, of_env, reaching, scores
from benchmarks.learning.figures import draw_all
from benchmarks.learning.report import comparison, kl_table, operator_table, summary
from benchmarks.learning.runs import ALIKE, BASELINE, NAMES, OWN, RESULTS, LearningRun, collect, read
from sb3_trpo_fvp.zoo.configs import find_config
from sb3_trpo_fvp.zoo.sweeps.sweep import Sweep

REFERENCES = {"A-v0": {"random": -100.0, "reference": 100.0}, "B-v0": {"random": 0.0, "reference": 10.0}}


def run(variant: str, env: str, seed: int, final: float, reached_at: int = 3) -> LearningRun:
    returns = np.full((6, 5), final)
    returns[:reached_at] = -100.0  # only the last three evaluations count as final
    cost = 2.0 if variant == BASELINE else 1.0
    return LearningRun(
        variant=variant,
        env=env,
        seed=seed,
        steps=np.arange(1, 7) * 10_000,
        returns=returns,
        seconds=cost * np.arange(1, 7),
        kl=np.array([0.01, 0.03]),
        target_kl=0.02,
        means={"trust_region/cg_steps": 4.0},
        machine="one",
    )


RUNS = [
    *(run(BASELINE, env, seed, final) for env, final in (("A-v0", 0.0), ("B-v0", 4.0)) for seed in range(3)),
    *(run(OWN, env, seed, final) for env, final in (("A-v0", 50.0), ("B-v0", 6.0)) for seed in range(2)),
]


def test_every_algorithm_of_the_sweep_has_a_name() -> None:
    assert list(NAMES) == list(dict.fromkeys(run.variant for run in Sweep.load("benchmark").runs()))


def test_the_import_swap_changes_nothing_but_the_algorithm() -> None:
    runs = Sweep.load("defaults").runs()
    assert {run.variant for run in runs} == {"trpo", "trpo_fvp"}
    environments = {run.options["env"]: run.options["n_timesteps"] for run in runs}
    assert set(read_references()) <= set(environments)
    assert all(30_000 <= steps <= 100_000 for steps in environments.values())
    assert all(not run.hyperparams and run.options["conf_file"] == "defaults.yml" for run in runs)
    content = yaml.safe_load(Path(find_config("defaults.yml") or "").read_text(encoding="utf-8"))
    assert {*environments, "default"} <= set(content)
    assert all(set(entry) == {"policy", "n_timesteps"} for entry in content.values())


def test_the_references_are_of_the_environments_of_the_sweep() -> None:
    references = read_references()
    assert set(references) == {run.options["env"] for run in Sweep.load("benchmark").runs()}
    assert all(scores["random"] < scores["reference"] for scores in references.values())


def test_only_what_both_have_done_is_compared() -> None:
    pair = matched(RUNS, (BASELINE, OWN))
    assert set(pair[BASELINE]) == set(pair[OWN]) == {("A-v0", 0), ("A-v0", 1), ("B-v0", 0), ("B-v0", 1)}


def test_scores_and_aggregates_are_those_of_the_definition() -> None:
    theirs, ours = (scores(of, REFERENCES)[:, :, -1] for of in matched(RUNS, (BASELINE, OWN)).values())
    assert theirs.tolist() == [[0.5, 0.4]] * 2
    assert ours.tolist() == [[0.75, 0.6]] * 2
    assert iqm(theirs)[0] == pytest.approx(0.45)  # of 0.4, 0.4, 0.5, 0.5 the middle half
    assert iqm(ours)[0] == pytest.approx(0.675)
    assert improvement(ours, theirs) == (1.0, 1.0, 1.0)
    assert improvement(theirs, theirs) == (0.5, 0.5, 0.5)


def test_the_probability_of_improvement_is_that_of_rliable() -> None:
    generator = np.random.default_rng(0)
    ours, theirs = (generator.integers(0, 4, size=(seeds, 3)).astype(float) for seeds in (6, 4))  # with ties
    assert probability_of_improvement(ours, theirs) == pytest.approx(metrics.probability_of_improvement(ours, theirs))


def test_returns_are_smoothed_over_as_many_evaluations_as_the_final_one() -> None:
    of = run(OWN, "A-v0", 0, 50.0)
    assert of.smoothed.tolist() == [-100.0, -100.0, -100.0, -50.0, 0.0, 50.0]
    assert of.smoothed[-1] == of.final


def test_the_difference_has_an_interval_over_independent_seeds() -> None:
    a = np.arange(5.0)
    middle, low, high = difference(a, 10.0 + a)
    assert middle == pytest.approx(10.0)
    # The mean of five of 0 ... 4 has a standard deviation of √(2 / 5), the difference of two √2 times that.
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(2) * np.sqrt(2 / 5), rel=0.1)


def test_curves_agree_where_the_interval_of_their_difference_holds_zero() -> None:
    theirs = {("A-v0", seed): run(BASELINE, "A-v0", seed, float(seed)) for seed in range(5)}
    for distance, agree in ((0.0, 6), (50.0, 3)):  # the first three evaluations of all runs are the same
        ours = {("A-v0", seed): run(OWN, "A-v0", seed, distance + seed) for seed in range(5)}
        assert f"contains 0 at {agree} of 6 " in agreement({BASELINE: theirs, OWN: ours}, OWN)


def test_the_time_to_reach_is_that_of_the_first_evaluation_there() -> None:
    theirs = [run(BASELINE, "A-v0", seed, 0.0) for seed in range(2)]
    ours = [run(OWN, "A-v0", seed, 50.0) for seed in range(2)]
    # Theirs is there at the sixth evaluation, after 12 seconds; ours, smoothed, at the fifth, after 5.
    assert reaching(theirs, ours) == (5 / 12, 5 / 6)
    never = [run(OWN, "A-v0", seed, -10.0) for seed in range(2)]
    assert reaching(theirs, never) == (float("inf"), float("inf"))


def test_the_tables_compare_and_say_how_many_runs() -> None:
    text = comparison(RUNS, REFERENCES, OWN)
    assert "4 runs of each" in text
    assert "| A-v0 | 2 | 0 [0, 0] | 50 [50, 50] | 50 [50, 50] | 2.00 | 0.0200 / 0.0200 |" in text
    assert "| A-v0 | 0 [0, 0] | 50 [50, 50] | 2.00 | 0.42 |" in summary(RUNS, REFERENCES)
    alike = [replace(run, variant=variant) for variant in ALIKE[:2] for run in RUNS if run.variant == OWN]
    assert "| A-v0 | KL Hessian | 2 | 50 [50, 50] | 4.0 | 1.00 |" in operator_table(alike)
    # The larger of the two KLs is above the bound.
    assert "| A-v0 | 0.02 | 0.0200 (0.0300) | 50% | 0.02 | 0.0200 (0.0300) | 50% |" in kl_table(RUNS)
    assert len(of_env(matched(RUNS, (BASELINE,))[BASELINE], "B-v0")) == 3


def test_finished_runs_are_collected_and_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "sweep" / "run"
    (folder / "zoo").mkdir(parents=True)
    returns = np.array([[1.0, 2.0], [3.0, 4.005]])
    np.savez(folder / "zoo" / "evaluations.npz", timesteps=[10, 20], results=returns)
    header = "time/total_timesteps,time/learn_cpu_seconds,trust_region/kl,trust_region/target_kl,trust_region/cg_steps"
    rows = ["10,2.0,0.1,0.2,5", "20,4.0,0.3,0.2,2", "30,6.0,0.0,0.2,2"]
    (folder / "zoo" / "progress.csv").write_text("\n".join([header, *rows]) + "\n")
    finished = {
        "variant": OWN,
        "parameters": {"algo": OWN, "env": "A-v0", "seed": 3},
        "seconds": 9.0,
        "cpu_seconds": 5.04,
        "folder": "zoo",
        "versions": {"cpu": "one"},
    }
    (folder / "finished.json").write_text(json.dumps(finished))
    (tmp_path / "sweep" / "unfinished").mkdir()
    assert collect(tmp_path / "sweep", tmp_path / "results") == 1
    (found,) = read(tmp_path / "results")
    assert (found.variant, found.env, found.seed, found.target_kl) == (OWN, "A-v0", 3, 0.2)
    assert found.machine == "one"
    assert found.seconds.tolist() == [2.0, 4.0]
    assert found.kl.tolist() == [0.1, 0.3, 0.0]
    assert found.means == {"trust_region/cg_steps": 3.0}
    assert found.final == pytest.approx(returns.mean(), abs=0.01)


def test_runs_without_a_trust_region_are_collected_too(tmp_path: Path) -> None:
    folder = tmp_path / "sweep" / "run"
    (folder / "zoo").mkdir(parents=True)
    np.savez(folder / "zoo" / "evaluations.npz", timesteps=[10], results=[[1.0, 2.0]])
    (folder / "zoo" / "progress.csv").write_text("time/total_timesteps,time/learn_cpu_seconds\n10,2.0\n")
    parameters = {"algo": "ppo conf_file=ppo.yml", "env": "A-v0 n_timesteps=10 eval_freq=10", "seed": 3}
    finished = {
        "variant": parameters["algo"],
        "parameters": parameters,
        "seconds": 9.0,
        "folder": "zoo",
        "versions": {"cpu": "one"},
    }
    (folder / "finished.json").write_text(json.dumps(finished))
    assert collect(tmp_path / "sweep", tmp_path / "results") == 1
    (found,) = read(tmp_path / "results")
    assert (found.variant, found.env, found.seed, found.final) == ("ppo conf_file=ppo.yml", "A-v0", 3, 1.5)
    assert found.kl.size == 0
    assert np.isnan(found.target_kl)
    assert found.means == {}
    assert "NaN" not in (tmp_path / "results" / "run.json").read_text()


def test_the_reference_compares_what_is_there() -> None:
    ppo = [replace(run, variant="ppo conf_file=ppo.yml") for run in RUNS if run.variant == BASELINE]
    assert reference.table([]) == "No run yet."
    alone = reference.table([*ppo, *(run for run in RUNS if run.variant == BASELINE and run.env == "A-v0")])
    assert "| A-v0 | 60,000 | 3 / 3 | 0 [0, 0] | 0 [0, 0] |" in alone
    assert "| B-v0 | 60,000 | 0 / 3 | – | 4 [4, 4] |" in alone
    everyone = reference.table([*RUNS, *ppo])
    surely = "1.00 [1.00, 1.00]"
    assert f"| 3 / 3 / 2 | 0 [0, 0] | 0 [0, 0] | 50 [50, 50] | {surely} | {surely} | 2.00 | 2.00 |" in everyone
    assert f"| all that both have |  |  |  |  |  | {surely} | {surely} |  |  |" in everyone


def test_who_is_ahead_is_asked_of_independent_seeds_where_both_are() -> None:
    assert ahead({"A": [1.0]}, {"B": [0.0]}) == "–"
    assert ahead({"A": [1.0, 3.0], "C": [9.0]}, {"A": [2.0, 2.0, 2.0]}).startswith("0.50 [")
    # Seeds beyond those that every environment has are left out where environments are averaged.
    assert ahead({"A": [3.0, 3.0], "B": [0.0]}, {"A": [2.0], "B": [1.0, 1.0]}) == "0.50"


def test_the_figures_are_drawn(tmp_path: Path) -> None:
    alike = [replace(run, variant=variant) for variant in ALIKE for run in RUNS if run.variant == OWN]
    draw_all([*RUNS, *alike], REFERENCES, tmp_path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.png")}
    assert set(sizes) == {"learning.png", "learning_aggregates.png", "learning_like_for_like.png"}
    assert min(sizes.values()) > 10_000


def test_the_pages_say_what_the_results_say() -> None:
    found = parts()
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name, part in found.items():
        assert f"<!-- {name}:start -->\n{part}\n<!-- {name}:end -->" in text, name


def test_results_hold_each_run_once() -> None:
    keys = [(run.variant, run.env, run.seed) for run in read()]
    assert len(keys) == len(set(keys))
    assert {run.variant for run in read()} <= set(NAMES)
    assert RESULTS.is_dir()
