"""``python -m benchmarks.learning``."""

from benchmarks.learning.command import STUDY

STUDY.main()
