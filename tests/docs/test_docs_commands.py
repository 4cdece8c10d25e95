"""The commands of the documentation are calls that work, and its sweep file is one."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from sb3_trpo_fvp.cli import COMMANDS
from sb3_trpo_fvp.zoo.checks import checked_training_arguments
from sb3_trpo_fvp.zoo.experiment_manager import register
from sb3_trpo_fvp.zoo.sweeps.command import check_runs
from sb3_trpo_fvp.zoo.sweeps.sweep import Sweep
from tests.helpers import ROOT
from tests.helpers.results import finished_run

PAGES = [ROOT / "docs" / page for page in ("rl-zoo.md", "sweeps.md")]


def blocks(language: str) -> list[str]:
    return [block for page in PAGES for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)]


def test_every_command_of_the_documentation_exists_and_trains_what_exists() -> None:
    register()
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("sb3-trpo-fvp ")]
    assert len(commands) >= 10
    for line in commands:
        name, *arguments = shlex.split(line)[1:]
        assert name in COMMANDS, line
        if name in ("train", "optimize"):
            checked_training_arguments(name, arguments)


def test_every_command_is_documented() -> None:
    table = PAGES[0].read_text()
    for name in COMMANDS:
        assert f"`{name}`" in table


def test_the_documented_sweep_file_is_one(tmp_path: Path) -> None:
    register()
    (block,) = blocks("yaml")
    path = tmp_path / "own.yaml"
    path.write_text(block)
    runs = Sweep.load(path).runs()
    assert len(runs) == 3 * 2 * 3
    assert yaml.safe_load(block)["metric"]["name"] == "eval/mean_reward"
    check_runs(runs)


@pytest.mark.parametrize("block", blocks("python"))
def test_the_documented_python_runs(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    finished_run(tmp_path / "logs" / "sweeps" / "benchmark" / "run", 4.0, [0.02, 0.04], [1.0, 3.0])
    exec(compile(block, "documentation", "exec"), {})
    assert capsys.readouterr().out == "trpo Env-v0 0 3.0 0.03\n"
