"""The wheel, built from this tree, works from another directory without it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sb3_trpo_fvp.zoo.configs import config_folder
from tests.helpers import ROOT

PROGRAM = """
import json, sys
import numpy as np
import sb3_trpo_fvp
from sb3_trpo_fvp import TRPO, fisher_operator

model = TRPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, seed=0, device="cpu").learn(128)
model.save("model")
loaded = TRPO.load("model", device="cpu")
F = fisher_operator(loaded.policy, np.zeros((4, 4), np.float32))
print(json.dumps({"file": sb3_trpo_fvp.__file__, "version": sb3_trpo_fvp.__version__, "shape": F.shape}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_has_the_package_its_types_and_its_configurations(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sb3_trpo_fvp").rglob("*.py")}
    configurations = {f"sb3_trpo_fvp/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "zoo_configs").rglob("*.y*ml")}
    assert modules | configurations | {"sb3_trpo_fvp/py.typed"} <= names
    assert configurations
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


def test_wheel_works_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True, text=True, timeout=300)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PYTHONPATH"] = str(target)
    run = {"cwd": elsewhere, "env": environment, "check": True, "capture_output": True, "text": True, "timeout": 300}
    result = json.loads(subprocess.run([sys.executable, "-c", PROGRAM], **run).stdout.splitlines()[-1])
    assert Path(result["file"]).is_relative_to(target)
    assert result["version"] == wheel.name.split("-")[1]
    assert result["shape"][0] == result["shape"][1] > 4000
    assert (elsewhere / "model.zip").exists()
    help_text = subprocess.run([sys.executable, "-m", "sb3_trpo_fvp", "--help"], **run).stdout
    assert "train" in help_text


def test_wheel_finds_its_configurations_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    # The module alone: what it finds depends on where it lies and on nothing else.
    find = f"import runpy; m = runpy.run_path({str(installed / 'sb3_trpo_fvp/zoo/configs.py')!r}); print(m['config_folder']())"
    found = subprocess.run(
        [sys.executable, "-c", find], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.strip()
    assert found == str(installed / "sb3_trpo_fvp" / "zoo_configs")
    packaged = {path.relative_to(found) for path in Path(found).rglob("*.y*ml")}
    assert packaged == {path.relative_to(config_folder()) for path in config_folder().rglob("*.y*ml")}
