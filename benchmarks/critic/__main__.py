"""``python -m benchmarks.critic``."""

from benchmarks.critic.command import STUDY

STUDY.main()
