"""What several tests build and measure with; nothing here is a test."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository: the package, its documentation and its configuration files."""
