"""A search survives its workers: a killed one leaves neither a trial that runs for ever nor a journal nobody can read."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sb3_trpo_fvp.cli import main
from sb3_trpo_fvp.zoo.studies import WORKER, fail_stale_trials, repair_journal, worker

ROOT = Path(__file__).parents[2]


def load(path: Path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "study.log"
    study = optuna.create_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=2)
    return path


def test_a_killed_worker_costs_a_trial_and_not_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "s.log"
    search = [
        "optimize",
        "--env",
        "CartPole-v1",
        "--storage",
        "s.log",
        "--study-name",
        "s",
        "--no-optim-plots",
        "--device",
        "cpu",
    ]
    command = [sys.executable, "-m", "sb3_trpo_fvp", *search, "-n", "100000000", "--seed", "7"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        # The last thing it writes before it trains, with the lock given back.
        while not (path.is_file() and '"user_attr":{"batch_size"' in path.read_text() and not Path("s.log.lock").is_symlink()):
            assert time.monotonic() < deadline
            assert killed.poll() is None
            time.sleep(0.1)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"')  # what a kill in the middle of a write leaves
    assert main([*search, "-n", "300", "--eval-episodes", "1", "--seed", "7", "--max-total-trials", "1"]) == 0
    printed = capsys.readouterr().err
    assert "s.log: 1 line(s) that a killed worker had left unfinished are skipped" in printed
    assert "Trial 0 is marked as failed: its worker was killed" in printed
    assert [trial.state for trial in load(path).trials] == [TrialState.FAIL, TrialState.COMPLETE]


@pytest.mark.parametrize("where", ["at the end", "with a record behind", "alone in the middle"])
def test_a_cut_line_is_skipped_and_nothing_else(journal: Path, where: str) -> None:
    expected = [trial.params for trial in load(journal).trials]
    *lines, last = journal.read_bytes().splitlines(keepends=True)
    cut = last[: len(last) // 2]
    journal.write_bytes(b"".join(lines))
    follower = load(journal)  # another worker, which remembers places in the file
    assert len(follower.trials) == 2
    ending = {"at the end": [last, cut], "with a record behind": [cut, last], "alone in the middle": [cut, b"\n", last]}[where]
    journal.write_bytes(b"".join([*lines, *ending]))
    if where != "at the end":
        with pytest.raises(json.JSONDecodeError):
            load(journal).optimize(lambda trial: 0.0, n_trials=2)
    assert repair_journal(journal) == 1
    assert repair_journal(journal) == 0
    assert [trial.params for trial in load(journal).trials][:2] == expected
    assert load(journal).trials[1].state == TrialState.COMPLETE
    follower.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=1)
    assert len(follower.trials) == len(load(journal).trials) > len(expected)


def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.log"
    path.write_text("my notes\n")
    with pytest.raises(ValueError, match=r"notes.log is no journal of Optuna"):
        repair_journal(path)
    assert path.read_text() == "my notes\n"


def test_only_trials_whose_worker_is_gone_from_this_machine_are_failed(journal: Path) -> None:
    study = load(journal)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = worker()
    for record in (mine, {**mine, "pid": gone.pid}, {**mine, "started": "1"}, {**mine, "pid": gone.pid, "host": "far"}, None):
        trial = study.ask()
        if record is not None:
            trial.set_user_attr(WORKER, record)
    assert fail_stale_trials(study) == [3, 4]
    assert fail_stale_trials(study) == []
    states = [trial.state for trial in study.trials[2:]]
    assert states == [TrialState.RUNNING, TrialState.FAIL, TrialState.FAIL, TrialState.RUNNING, TrialState.RUNNING]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--storage nothing.log --study-name s --trial-id 0", "no journal file 'nothing.log'"),
        ("--storage study.log --study-name other --trial-id 0", "no trial 0 of a study 'other' in 'study.log'"),
        ("--storage study.log --study-name s --trial-id 9", "no trial 9 of a study 's' in 'study.log'"),
    ],
)
def test_a_trial_that_is_not_there_gets_a_sentence(
    journal: Path, options: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(journal.parent)
    assert main(["train", "--env", "CartPole-v1", *options.split()]) == 2
    assert message in capsys.readouterr().err
    assert not (journal.parent / "logs").exists()
