"""``python -m benchmarks.critic``."""

from benchmarks.critic.study import main

main()
