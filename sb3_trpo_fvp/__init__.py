"""TRPO for Stable-Baselines3 with swappable Fisher-vector products."""

__version__ = "0.1.0"
