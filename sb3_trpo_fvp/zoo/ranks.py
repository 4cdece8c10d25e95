"""What each rank of a data-parallel run may do of RL-Zoo's training script."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence

from sb3_trpo_fvp.distributed.communicator import Communicator


@contextlib.contextmanager
def arguments_of_rank(args: Sequence[str], comm: Communicator) -> Iterator[list[str]]:
    """
    Give RL-Zoo's training script what this rank may do: all of it on rank 0; elsewhere no evaluation, checkpoint,
    progress bar, tracking or log, and a folder that is gone afterwards for what is written all the same.

    :param args: command line of ``rl_zoo3.train``
    :param comm: the ranks
    :return: context with this rank's command line
    """
    if comm.rank == 0:
        yield list(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        kept = [argument for argument in args if argument not in ("-P", "--progress", "--track")]
        quiet = ["--eval-freq", "-1", "--save-freq", "-1", "--tensorboard-log", "", "--verbose", "0"]
        yield [*kept, *quiet, "--log-folder", folder]
