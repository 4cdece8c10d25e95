"""``python -m benchmarks.tuning``."""

from benchmarks.tuning.command import STUDY

STUDY.main()
