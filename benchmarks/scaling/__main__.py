"""``python -m benchmarks.scaling``."""

from benchmarks.scaling.command import STUDY

STUDY.main()
