"""What one process of a data-parallel run can ask of the others, and the process that is alone."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch as th

T = TypeVar("T")


class RankFailure(RuntimeError):
    """A rank of a data-parallel run died, hung, raised or went its own way; the message names it."""


class Communicator:
    """
    The only process: each answer is the question, nothing is copied and nothing is sent.

    With several processes ("ranks"), every method is called by all of them in the same order and gives all of them the
    same answer, bit for bit; :class:`~sb3_trpo_fvp.distributed.process_group.ProcessGroup` is that one.
    """

    rank: int = 0
    """Number of this process; rank 0 logs, evaluates and saves."""
    world_size: int = 1
    """Number of processes."""

    def mean(self, tensors: Sequence[th.Tensor], count: int) -> list[th.Tensor]:
        """
        Average means over states into the mean over the states of all ranks. What is not finite on one rank is not
        finite on any afterwards.

        :param tensors: means over this rank's states, of one dtype
        :param count: how many states they are the means of; with 0 the tensors are not looked at
        :return: the means over all states, shaped as the tensors
        """
        return list(tensors)

    def gather(self, value: T) -> list[T]:
        """
        Hand a small object to every rank.

        :param value: anything that can be pickled
        :return: the objects of all ranks, by rank
        """
        return [value]

    def concatenate(self, tensor: th.Tensor) -> th.Tensor:
        """
        Put the rows of all ranks together.

        :param tensor: this rank's, (n, ...); n may differ from rank to rank
        :return: the rows of rank 0, then those of rank 1 and so on, (Σn, ...)
        """
        return tensor

    def broadcast(self, value: T) -> T:
        """
        Take an object over from rank 0.

        :param value: anything that can be pickled; of interest on rank 0 only
        :return: rank 0's
        """
        return value

    def all(self, holds: bool) -> bool:
        """
        Ask whether something holds everywhere.

        :param holds: whether it does on this rank
        :return: whether it does on all
        """
        return all(self.gather(holds))

    def largest(self, number: int) -> int:
        """
        Find the largest of the ranks' numbers.

        :param number: this rank's
        :return: the largest
        """
        return max(self.gather(number))

    def reporting(self) -> AbstractContextManager[None]:
        """
        Tell the other ranks of an exception, so that they stop now and say why, and not when they time out.

        :return: the context in which exceptions are told
        """
        return nullcontext()

    def spent(self) -> dict[str, float]:
        """
        Read the meter of the communication, and set it back.

        :return: numbers to log, by name
        """
        return {}


ALONE = Communicator()
"""The communicator of a run of one process."""
