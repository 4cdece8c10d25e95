"""``python -m benchmarks.learning``."""

from benchmarks.learning.runs import main

main()
