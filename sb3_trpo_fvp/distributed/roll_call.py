"""Finding out which rank failed and why, through the store that every rank of a process group can reach."""

import time
from contextlib import suppress

from torch.distributed.distributed_c10d import PrefixStore, Store

GRACE_SECONDS = 10.0
"""How long the ranks of a failed run wait to hear from each other."""

_LOST_CONTACT = "lost contact"


class RollCall:
    """
    The ranks' answers to "are you there, and what happened?", kept outside of the connections that broke.

    :param store: the process group's key-value store
    :param rank: this rank
    :param world_size: number of ranks
    """

    def __init__(self, store: Store, rank: int, world_size: int):
        self._store = PrefixStore("sb3_trpo_fvp/roll_call", store)
        self.rank = rank
        self.world_size = world_size
        self._answered = False

    def answer(self, what_happened: str = _LOST_CONTACT) -> None:
        """
        Answer for this rank; the first answer stands.

        :param what_happened: the error of this rank's own, if there is one
        """
        if self._answered:
            return
        self._answered = True
        with suppress(RuntimeError):  # the store is gone with the rank that hosted it
            self._store.set(str(self.rank), what_happened)

    def wait(self) -> dict[int, str]:
        """
        Wait until every rank has answered, or the grace is over.

        :return: the answers that came, by rank
        :raises RuntimeError: if the store cannot be reached
        """
        deadline = time.monotonic() + GRACE_SECONDS
        answers = {}
        for rank in range(self.world_size):
            key = str(rank)
            while not self._store.check([key]):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)
            else:
                answers[rank] = self._store.get(key).decode()
        return answers

    def diagnose(self, error: Exception) -> str:
        """
        Name the rank that made a collective operation fail.

        :param error: what the operation raised
        :return: which rank, and why
        """
        first_line = (str(error).splitlines() or [""])[0]
        try:
            answers = self.wait()
        except RuntimeError:
            return f"the store is out of reach: rank 0 or its machine is gone ({first_line})"
        own = [f"rank {rank} {answer}" for rank, answer in answers.items() if answer != _LOST_CONTACT]
        if own:
            return "; ".join(own)
        missing = [str(rank) for rank in range(self.world_size) if rank not in answers]
        if not missing:
            return f"all ranks are there, but out of step: raise the timeout, or look at the network ({first_line})"
        fate = "hung until the timeout" if "timed out" in first_line.lower() else "was killed"
        return f"rank {', '.join(missing)} of {self.world_size} {fate} ({first_line})"
