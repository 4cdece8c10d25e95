"""Where a measurement was made: part of every committed result, for without it a figure means nothing."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch as th

from benchmarks import ROOT
from sb3_trpo_fvp.zoo.provenance import processor

PACKAGES = ("torch", "stable-baselines3", "sb3-contrib", "gymnasium", "mujoco", "numpy")
"""Whose versions decide how fast or how well something runs."""


def provenance(note: str = "") -> dict[str, Any]:
    """
    Describe the machine, the versions and the state of the source.

    :param note: what a reader must know besides, for example that others used the machine
    :return: ready for JSON
    """
    return {
        "cpu": processor(),
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": th.cuda.get_device_name() if th.cuda.is_available() else None,
        "blas": _line_with(th.__config__.show(), "BLAS_INFO="),
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "note": note,
    }


def load_average() -> float | None:
    """
    Look at how busy the machine is.

    :return: runnable processes, averaged over a minute; None where the system does not say
    """
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _line_with(text: str, key: str) -> str:
    """Return the value that follows a key in torch's description of its build."""
    return text.partition(key)[2].partition(",")[0].strip() or "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit that is checked out, with a + if the package differs from it; None outside of a repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", "sb3_trpo_fvp") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
