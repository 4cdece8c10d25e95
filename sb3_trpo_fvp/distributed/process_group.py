"""The ranks of a ``torch.distributed`` process group; imported only inside one."""

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch as th
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from sb3_trpo_fvp.distributed.communicator import Communicator, RankFailure
from sb3_trpo_fvp.distributed.roll_call import RollCall
from sb3_trpo_fvp.linalg.vectors import flatten, unflatten

T = TypeVar("T")


class ProcessGroup(Communicator):
    """
    The default process group, whatever its backend and however it was started.

    An operation that fails, because a rank died, hung longer than the group's timeout, or raised, ends in
    :class:`RankFailure` on every rank that is left, with the rank at fault named; the group is of no use afterwards.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self._seconds, self._bytes, self._messages = 0.0, 0, 0
        self._roll_call = RollCall(c10d._get_default_store(), self.rank, self.world_size)
        # "cpu:gloo,cuda:nccl": tensors of other devices travel by way of the first.
        self._devices = [pair.partition(":")[0] for pair in dist.get_backend_config().split(",")]

    def mean(self, tensors: Sequence[th.Tensor], count: int) -> list[th.Tensor]:
        """Average over the states of all ranks in one all-reduce, see :meth:`Communicator.mean`."""
        flat = flatten([tensor.detach() for tensor in tensors])
        # The number of states travels with their sum: ranks of different size need no second message.
        message = th.cat([flat * count if count else th.zeros_like(flat), flat.new_tensor([count])])
        total = self._to_wire(message)
        self._run(dist.all_reduce, total, size=total.numel() * total.element_size())
        total = total.to(flat.device)
        return unflatten(total[:-1] / total[-1], tensors)

    def gather(self, value: T) -> list[T]:
        """Hand an object to every rank, see :meth:`Communicator.gather`."""
        pickled = pickle.dumps(value)
        gathered: list[Any] = [None] * self.world_size
        self._run(dist.all_gather_object, gathered, pickled, size=len(pickled), messages=2)
        return [pickle.loads(item) for item in gathered]

    def concatenate(self, tensor: th.Tensor) -> th.Tensor:
        """Put the rows of all ranks together, see :meth:`Communicator.concatenate`."""
        rows = self.gather(len(tensor))
        # Backends gather tensors of one shape only.
        own = self._to_wire(tensor.new_zeros(max(rows), *tensor.shape[1:]))
        own[: len(tensor)] = tensor
        parts = [th.empty_like(own) for _ in rows]
        self._run(dist.all_gather, parts, own, size=own.numel() * own.element_size())
        return th.cat([part[:count] for part, count in zip(parts, rows, strict=True)]).to(tensor.device)

    def broadcast(self, value: T) -> T:
        """Take an object over from rank 0, see :meth:`Communicator.broadcast`."""
        box = [pickle.dumps(value) if self.rank == 0 else b""]
        self._run(dist.broadcast_object_list, box, size=len(box[0]), messages=2)
        received: T = pickle.loads(box[0])
        return received

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Tell the other ranks of an exception, see :meth:`Communicator.reporting`."""
        try:
            yield
        except RankFailure:
            raise
        except BaseException as error:
            self._roll_call.answer(f"raised {type(error).__name__}: {error}")
            self._hang_up()
            if self.rank == 0:
                # This process may be the one that keeps the store: let the others read it before it goes.
                with suppress(Exception):
                    self._roll_call.wait()
            raise

    def spent(self) -> dict[str, float]:
        """
        Read the meter of the communication, and set it back, see :meth:`Communicator.spent`.

        :return: ``seconds``, waiting for slower ranks included; ``megabytes`` that this rank handed in, of which a ring
            sends 2 (W - 1) / W times as much; ``messages``, the collective operations
            (two for an object: its size, then itself)
        """
        spent = {"seconds": self._seconds, "megabytes": self._bytes / 1e6, "messages": self._messages}
        self._seconds, self._bytes, self._messages = 0.0, 0, 0
        return spent

    def _run(self, collective: Callable[..., object], *args: object, size: int, messages: int = 1) -> None:
        started = time.perf_counter()
        try:
            collective(*args)
        except RuntimeError as error:
            self._roll_call.answer()
            self._hang_up()
            msg = f"data-parallel run stopped on rank {self.rank}: {self._roll_call.diagnose(error)}"
            raise RankFailure(msg) from error
        finally:
            self._seconds += time.perf_counter() - started
            self._bytes += size
            self._messages += messages

    def _hang_up(self) -> None:
        """Close the connections: ranks that wait for this one fail at once, and so on to the last."""
        with suppress(Exception):
            dist.destroy_process_group()

    def _to_wire(self, tensor: th.Tensor) -> th.Tensor:
        return tensor if tensor.device.type in self._devices else tensor.to(self._devices[0])
