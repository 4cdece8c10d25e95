"""Studies of speed and learning against sb3-contrib; results are committed with the machine and versions that gave them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = ROOT / "docs" / "figures"
