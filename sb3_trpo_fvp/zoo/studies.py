"""Optuna studies that outlive their workers: what a killed one leaves behind is put right by the next."""

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileSymlinkLock
from optuna.trial import TrialState

WORKER = "worker"
"""User attribute of a trial: the process that runs it."""

RECORD = b'{"op_code":'
"""How each line of a journal begins."""


def worker() -> dict[str, Any]:
    """:return: this process, so that others can tell whether it still runs: host, process id, and when it started"""
    return {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}


def fail_stale_trials(study: optuna.Study) -> list[int]:
    """
    Mark trials FAILED whose worker on this machine no longer runs: they would count as RUNNING for ever.

    Optuna's heartbeats do this for databases only, not for journal files. Trials of other machines are left alone.

    :param study: the study
    :return: the numbers of the trials
    """
    failed = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        record = trial.user_attrs.get(WORKER)
        if record is None or record["host"] != _host() or record["started"] == _started(record["pid"]):
            continue
        with contextlib.suppress(RuntimeError, ValueError):  # another worker was quicker
            study.tell(trial.number, state=TrialState.FAIL)
            failed.append(trial.number)
    return failed


def repair_journal(path: str | Path) -> int:
    """
    Blank what a worker that was killed in the middle of a line left in a journal, which Optuna refuses to read.

    Records keep their places in the file, since other workers remember them.

    :param path: a journal file of Optuna
    :return: how many lines were cut
    :raises ValueError: if the file is something else
    """
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()  # nobody writes now: a line without an end will have none
    try:
        content = Path(path).read_bytes()
        if content.strip() and not content.lstrip().startswith(RECORD):
            msg = f"{path} is no journal of Optuna"
            raise ValueError(msg)
        lines = content.splitlines(keepends=True)
        mended = [_mended(line) for line in lines]
        if mended != lines:
            with Path(path).open("r+b") as file:
                file.write(b"".join(mended))
        return sum(old != new for old, new in zip(lines, mended, strict=True))
    finally:
        lock.release()


def _mended(line: bytes) -> bytes:
    """Return the line with everything before its last whole record blank; JSON takes no notice of spaces."""
    start = 0
    while start >= 0:
        if line.endswith(b"\n") and _is_record(line[start:]):
            return b" " * start + line[start:]
        start = line.find(RECORD, start + 1)
    return b" " * len(line)  # its end too: the next record goes on in this line


def _is_record(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _host() -> str:
    """Name the machine, or the container: a process id means nothing outside of its namespace."""
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {namespace}".strip()


def _started(pid: int) -> str | None:
    """When a process started, in the system's own clock, since ids are given again; ``None`` if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        fields = []
    if fields:
        return None if fields[0] == "Z" else fields[19]
    if Path("/proc/self/stat").exists():
        return None
    try:  # no /proc: the id must do
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""
