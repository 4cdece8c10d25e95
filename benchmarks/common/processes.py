"""Processes of a measurement's own, and the memory of the one that this runs in."""

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT


class WorkerError(RuntimeError):
    """A measurement's process failed; the message ends with what it wrote to its standard error."""


def run_module(
    module: str, *arguments: object, threads: int = 1, launcher: Sequence[str] = (), variables: Mapping[str, str] | None = None
) -> Any:
    """
    Run a module in a process of its own and wait for its result.

    :param module: one that prints a line of JSON, its last
    :param arguments: its command line
    :param threads: of OpenMP and MKL
    :param launcher: a module that starts it, with the launcher's own arguments, for example ``torch.distributed.run``
    :param variables: further environment variables
    :return: what it printed
    :raises WorkerError: if it ends with an error
    """
    launching = ["-m", *launcher] if launcher else []
    command = [sys.executable, *launching, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **(variables or {})}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        msg = f"{' '.join(command[1:])} ended with {done.returncode}:\n{done.stderr}"
        raise WorkerError(msg)
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_bytes(step: Callable[[], object]) -> int:
    """
    Run something and read how much memory it added at its peak.

    The kernel's own high-water mark is read, which no sampling misses; it can be reset on Linux alone.

    :param step: what to run; run it once before, so that what libraries keep for good is not counted
    :return: bytes
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _read("/proc/self/status", "VmRSS")
    step()
    return _read("/proc/self/status", "VmHWM") - before


def available_bytes() -> int:
    """
    Read how much memory is free for new processes.

    :return: bytes
    """
    return _read("/proc/meminfo", "MemAvailable")


def _read(file: str, key: str) -> int:
    for line in Path(file).read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    msg = f"no {key} in {file}"
    raise OSError(msg)
