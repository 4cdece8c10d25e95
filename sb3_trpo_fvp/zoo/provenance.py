"""What a result was made with."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sb3_trpo_fvp import __version__


def processor() -> str:
    """
    Name the processor.

    :return: its name, with family and model where the name says little
    """
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    fields: dict[str, str] = {}
    for line in cpuinfo.read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name", platform.machine())
    return f"{name} (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else name


def versions() -> dict[str, Any]:
    """
    Say what a result was made with.

    :return: the versions of the packages that it depends on, and the machine's kind
    """
    found: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
    found["cpu"] = processor()
    found["sb3-trpo-fvp"] = __version__
    for package in ("sb3_contrib", "stable_baselines3", "rl_zoo3", "torch", "gymnasium", "mujoco", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
