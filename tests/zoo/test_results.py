"""What a finished run left on disk is read back."""

from pathlib import Path

import pytest

from sb3_trpo_fvp.zoo.results import Result


def run_with(folder: Path, monitors: dict[str, list[tuple[float, int]]]) -> Result:
    for name, episodes in monitors.items():
        rows = [f"{total},{length},0.5" for total, length in episodes]
        lines = ['#{"t_start": 1.5, "env_id": "CartPole-v1"}', "r,l,t", *rows]
        (folder / f"{name}.monitor.csv").write_text("\n".join(lines) + "\n")
    return Result(folder, "trpo", {}, 1.0, 1.0, folder, {})


def test_the_steps_of_training_episodes_are_those_of_all_copies(tmp_path: Path) -> None:
    # As with ten copies and more, the names' order as text is not that of the numbers.
    result = run_with(tmp_path, {"10": [(3.0, 5)], "2": [(1.0, 4), (2.0, 6)], "0": []})
    (none, nothing), (steps, returns), (late, last) = result.training_episodes()
    assert none.size == nothing.size == 0
    assert (steps.tolist(), returns.tolist()) == ([12, 30], [1.0, 2.0])
    assert (late.tolist(), last.tolist()) == ([15], [3.0])


def test_the_training_curve_merges_the_copies(tmp_path: Path) -> None:
    steps, returns = run_with(tmp_path, {"0": [(1.0, 4), (2.0, 6)], "1": [(3.0, 5)]}).training_curve()
    assert steps.tolist() == [8, 10, 20]
    assert returns.tolist() == [1.0, 3.0, 2.0]


def test_a_run_without_a_record_of_its_episodes_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \*\.monitor\.csv"):
        run_with(tmp_path, {}).training_curve()
