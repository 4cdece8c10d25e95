"""The critic study runs, resumes and reports; what it measures is not asserted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.critic import command, report, study
from benchmarks.critic.study import CRITICS, ENVIRONMENTS, CriticRun, plan, settings
from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.zoo.configs import ALGORITHM, BASELINE

SMALL = {"n_steps": 32, "batch_size": 32, "n_critic_updates": 1, "verbose": 0}


def test_plan_compares_like_with_like_wherever_it_stops() -> None:
    runs = plan(ENVIRONMENTS, 3, 300_000)
    assert len({run.file_name for run in runs}) == len(runs) == 18
    assert [run.critic for run in runs[:2]] == list(CRITICS)
    assert {run.seed for run in runs[:6]} == {0}


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_adam_has_the_settings_of_rl_zoo(env: str) -> None:
    ours, n_envs = settings(ALGORITHM, env)
    theirs, _ = settings(BASELINE, env)
    for name in ("n_critic_updates", "batch_size", "learning_rate", "gamma", "gae_lambda", "n_steps"):
        assert ours[name] == theirs[name]
    assert (ours["n_critic_updates"], n_envs) == (20, 2)


@pytest.mark.parametrize("name", CRITICS)
def test_run_measures_both_critics_and_leaves_no_trace(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    final = {}
    learn = TRPO.learn

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        learn(self, *args, **kwargs)
        final[type(self)] = {key: value.clone() for key, value in self.policy.state_dict().items()}
        return self

    monkeypatch.setattr(TRPO, "learn", spy)
    result = study.train(CriticRun("Hopper-v5", name, 0, 3 * 64), **SMALL)
    json.dumps(result, allow_nan=False)
    updates = result["updates"]
    assert updates["step"] == [64, 128, 192]
    for which in CRITICS:
        assert all(value <= 1.0 for value in updates[f"{which}_explained_variance"])
        assert all(value > 0.0 for value in updates[f"{which}_seconds"])
    # Both start from the same weights, and are different critics after the first update.
    first, second = (updates[f"{which}_explained_variance"] for which in CRITICS)
    assert first[0] == pytest.approx(second[0], abs=1e-3)
    assert first[1:] != second[1:]
    assert updates["contrib_train_seconds"][0] > 0.0
    assert updates["contrib_train_seconds"][1:] == [None, None]

    monkeypatch.setattr(study, "StudiedTRPO", _Plain)
    study.train(CriticRun("Hopper-v5", name, 0, 3 * 64), **SMALL)
    studied, plain = final.values()
    assert all(np.array_equal(studied[key], plain[key]) for key in studied)


class _Plain(TRPO):
    """As the studied one, but for the study."""

    def prepare(self, contrib: Any) -> None:
        self.records = [{"step": 0}]


def _result(run: CriticRun, level: float) -> dict[str, Any]:
    updates: dict[str, list[float | None]] = {"step": list(range(20)), "return": [100.0 * level] * 20}
    updates |= {"train_seconds": [1.0] * 20, "contrib_train_seconds": [5.0, *[None] * 19]}
    updates |= {"adam_seconds": [3.0] * 20, "gauss_newton_seconds": [1.0] * 20}
    updates |= {"adam_explained_variance": [0.5] * 20, "gauss_newton_explained_variance": [0.75] * 20}
    return {"run": vars(run), "updates": updates}


def test_report_of_an_unfinished_study(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    page = tmp_path / "critic.md"
    page.write_text("before\n<!-- critic:start -->\nold\n<!-- critic:end -->\nafter\n")
    for run in [*plan(["A", "B"], 2, 1000), CriticRun("A", "adam", 2, 1000), CriticRun("B", "adam", 0, 500)]:
        level = 1.5 if run.critic == "gauss_newton" else 1.0
        (results / run.file_name).write_text(json.dumps(_result(run, level)))
    report.write_report(results, page, tmp_path / "critic.png")
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| A | Adam | 3 | 0.500 [0.500, 0.500] | 0.750 [0.750, 0.750] | 0.250 [0.250, 0.250] | 3.0 × [3.0, 3.0] |" in text
    assert "| A | Gauss-Newton | 2 | 150 [150, 150] | 5.0 × [5.0, 5.0] |" in text
    assert "Adam 1.00 [1.00, 1.00], Gauss-Newton 1.50 [1.50, 1.50]" in text
    assert text.index("### Runs of 1,000 steps") < text.index("### Runs of 500 steps")
    assert text.count("| B | Adam |") == 3
    assert (tmp_path / "critic.png").stat().st_size > 0


def test_finished_runs_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr(command, "train", lambda run: done.append(run.file_name) or {"run": vars(run)})
    monkeypatch.setattr(command, "write_report", lambda results: None)
    (tmp_path / "Hopper-v5-adam-0-300000.json").write_text("{}")
    command.STUDY.main(["--env", "Hopper-v5", "--seeds", "2"])
    assert done == [f"Hopper-v5-{name}-300000.json" for name in ("gauss_newton-0", "adam-1", "gauss_newton-1")]
    command.STUDY.main(["--env", "Hopper-v5", "--seeds", "2"])
    assert len(done) == 3
