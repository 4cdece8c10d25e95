"""Ending with the process that started this one, and ending in order when told to."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

POLL_SECONDS = 0.5
GRACE_SECONDS = 20.0
"""How long a process may take to end once its parent has ended, before it is killed."""


def end_with(parent: int) -> None:
    """
    End this process once its parent has ended, however that came to be: by SIGTERM, and where that is not enough by SIGKILL.

    A thread asks who the parent is. Linux could send a signal by itself (``PR_SET_PDEATHSIG``), but only Linux, at the
    end of the parent's *thread*, and a signal alone does not end a process that waits in a collective or a simulator.
    On Windows the parent's id never changes, and nothing happens.

    :param parent: process id of the parent
    """
    threading.Thread(target=_watch, args=(parent,), name="end-with-parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    kill_group(os.getpid())


def kill_group(leader: int) -> None:
    """
    Kill a process, and its group where it leads one: what it started and did not end goes with it.

    :param leader: process id
    """
    with contextlib.suppress(ProcessLookupError):
        if os.name == "posix" and os.getpgid(leader) == leader:
            os.killpg(leader, signal.SIGKILL)
        else:
            os.kill(leader, getattr(signal, "SIGKILL", signal.SIGTERM))


@contextlib.contextmanager
def exit_on(*names: str) -> Iterator[None]:
    """
    Turn signals into ``SystemExit``, so that they end a process like Ctrl-C does: what is open is closed, children are ended.

    The exit code is the shell's, 128 + the signal's number. A signal that is ignored, as ``nohup`` does with SIGHUP, stays so.

    :param names: the signals, e.g. ``SIGTERM``; one that this system does not have is left out
    :return: context in which they do; only in the main thread, elsewhere nothing changes
    """

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {number: signal.getsignal(number) for number in numbers}
    changed = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in changed:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in changed.items():
            signal.signal(number, handler)
