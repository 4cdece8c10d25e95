"""The source distribution has what its own tests import and read."""

import subprocess
import sys
import tarfile
from pathlib import Path

from benchmarks import ROOT


def test_the_source_distribution_has_what_the_tests_need(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder, suffixes in {
        "benchmarks": (".py", ".json", ".yaml", ".md"),
        "tests": (".py",),
        "docs": (".md", ".png"),
    }.items():
        files = {file.relative_to(ROOT).as_posix() for file in (ROOT / folder).rglob("*") if file.suffix in suffixes}
        assert files
        assert files <= names
