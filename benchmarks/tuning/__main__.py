"""``python -m benchmarks.tuning``."""

from benchmarks.tuning.report import main

main()
