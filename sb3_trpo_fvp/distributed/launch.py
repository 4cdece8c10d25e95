"""Joining the process group that ``torchrun`` describes; it starts and supervises the ranks, nothing here does."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from datetime import timedelta

import torch as th

from sb3_trpo_fvp.distributed.communicator import ALONE, Communicator
from sb3_trpo_fvp.distributed.current import communicator
from sb3_trpo_fvp.distributed.parent import end_with

TIMEOUT_VARIABLE = "SB3_TRPO_FVP_TIMEOUT"
"""Environment variable: seconds that a rank waits for the others before it gives the run up."""
DEFAULT_TIMEOUT = 600.0
"""Longer than rank 0 takes for an evaluation, during which the others wait."""


@contextlib.contextmanager
def torchrun() -> Iterator[Communicator]:
    """
    Take part in the run if ``torchrun`` started this process, and do nothing if it did not.

    Ranks but the first write nothing to stdout and warn of nothing; errors are shown on all. gloo carries what is on
    the CPU and nccl what is on a GPU, rank i of a machine having its GPU i. A rank ends with ``torchrun``'s own process,
    which may be killed without a word to it.

    :return: context with the communicator
    :raises ValueError: if the timeout in the environment is no positive number
    """
    if ranks_started() == 1:
        yield ALONE
        return
    end_with(os.getppid())
    import torch.distributed as dist
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    if th.cuda.is_available():
        th.cuda.set_device(int(os.environ["LOCAL_RANK"]) % th.cuda.device_count())
    errors = get_error_handler()
    errors.initialize()
    dist.init_process_group(timeout=timedelta(seconds=timeout()))
    comm = communicator()
    try:
        with comm.reporting(), _silence(comm.rank > 0):
            yield comm
    except Exception as error:
        errors.record_exception(error)  # torchrun reports the first of these as the root cause
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def ranks_started() -> int:
    """
    Count the processes that ``torchrun`` started, before they have joined a group.

    :return: their number, 1 if it did not start this one
    """
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def timeout() -> float:
    """
    Read how long a rank waits for the others.

    :return: seconds
    :raises ValueError: if the environment says something else than a positive number
    """
    text = os.environ.get(TIMEOUT_VARIABLE, str(DEFAULT_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        msg = f"`{TIMEOUT_VARIABLE}` must be in (0, ∞) seconds, got {text!r}"
        raise ValueError(msg)
    return seconds


@contextlib.contextmanager
def _silence(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield
