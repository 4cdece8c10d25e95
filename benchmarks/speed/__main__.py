"""``python -m benchmarks.speed``."""

from benchmarks.speed.command import STUDY

STUDY.main()
