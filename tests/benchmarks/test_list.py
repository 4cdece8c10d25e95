"""The list of studies: complete, written in the README, and each with the same verbs."""

import re
import sys
from pathlib import Path

import pytest

from benchmarks import ROOT
from benchmarks.__main__ import STUDIES, main, table
from benchmarks.common.processes import WorkerError, run_module
from benchmarks.common.study import Study, Verb

NAMES = [entry.name for entry in STUDIES]


def test_the_readme_has_the_list() -> None:
    assert f"<!-- studies:start -->\n{table()}\n<!-- studies:end -->" in (ROOT / "benchmarks" / "README.md").read_text()


def test_every_study_is_listed_with_a_heading_that_exists() -> None:
    folder = ROOT / "benchmarks"
    packages = {path.parent.name for path in folder.glob("*/__main__.py")}
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
    assert packages | modules == set(NAMES)
    for entry in STUDIES:
        page, _, anchor = entry.page.partition("#")
        headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}


def test_without_arguments_the_studies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    printed = capsys.readouterr().out
    assert all(name in printed for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_study_has_the_same_verbs(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [])  # main replaces it
    monkeypatch.delitem(sys.modules, f"benchmarks.{name}", raising=False)  # as in a new process
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert f"python -m benchmarks.{name}" in printed
    assert "{run,collect,report}" in printed


def test_verbs_do_what_they_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    done = []
    run = Verb("runs", lambda options: done.append(("run", options.n)), lambda parser: parser.add_argument("-n", type=int))
    study = Study("some", run=run, report=Verb("reports", lambda options: done.append(("report",))))
    study.main([])
    study.main(["run", "-n", "3"])
    assert done == [("report",), ("run", 3)]
    with pytest.raises(SystemExit):
        study.main(["collect"])
    assert "nothing to collect" in capsys.readouterr().err


def test_a_process_gives_its_last_line_or_says_why_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "echo_arguments.py").write_text("import json, sys\nprint('noise')\nprint(json.dumps(sys.argv[1:]))\n")
    (tmp_path / "fails.py").write_text("raise SystemExit('for a reason')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run_module("echo_arguments", "a", 1) == ["a", "1"]
    with pytest.raises(WorkerError, match="for a reason"):
        run_module("fails")
