"""Whether all ranks train the same policy with the same arguments."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_trpo_fvp.distributed.communicator import Communicator, RankFailure

_OWN_TO_A_RANK = {"seed", "verbose", "n_envs", "n_steps", "num_timesteps", "start_time", "tensorboard_log"}
"""Attributes of an algorithm that may differ between ranks."""

_BITS = {1: th.uint8, 2: th.int16, 4: th.int32, 8: th.int64}


def check_arguments(model: BaseAlgorithm, arguments: Mapping[str, object], comm: Communicator) -> None:
    """
    Make sure that the ranks were started alike: with other numbers of conjugate-gradient steps, say, they would wait
    for each other until the timeout.

    :param model: an algorithm; its public attributes that are numbers, strings or None are compared
    :param arguments: what else to compare
    :param comm: the ranks
    :raises RankFailure: naming the rank, the argument and both values
    """
    own = {
        key: value
        for key, value in vars(model).items()
        if isinstance(value, (int, float, str, type(None))) and not key.startswith("_") and key not in _OWN_TO_A_RANK
    }
    given: list[dict[str, Any]] = comm.gather({**own, **arguments})
    for rank, theirs in enumerate(given):
        for key in given[0].keys() | theirs.keys():
            value, first = theirs.get(key), given[0].get(key)
            if value != first:
                msg = f"`{key}` must be the same on all ranks, got {value!r} on rank {rank} and {first!r} on rank 0"
                raise RankFailure(msg)


def check_parameters(policy: th.nn.Module, update: int, comm: Communicator) -> None:
    """
    Compare the policy's checksum between ranks.

    :param policy: parameters and buffers of which are compared, bit for bit
    :param update: number of the update, for the message
    :param comm: the ranks
    :raises RankFailure: naming the ranks that differ from most
    """
    odd = odd_ones_out(comm.gather(checksum(policy)))
    if odd:
        ranks = ", ".join(map(str, odd))
        msg = (
            f"after update {update} the parameters of rank {ranks} differ from the other ranks'. All ranks must compute the "
            "same bits: the same versions, kind of processor and number of threads, and nothing that changes the policy on "
            "one rank alone, as a callback on rank 0 would."
        )
        raise RankFailure(msg)


def checksum(module: th.nn.Module) -> tuple[int, int]:
    """
    Sum a module's bits up, plainly and weighted by position, in 64-bit arithmetic.

    :param module: whose parameters and buffers
    :return: two integers; one changed bit changes the first
    """
    plain = weighted = 0
    for index, tensor in enumerate(module.state_dict().values(), start=1):
        bits = tensor.detach().contiguous().reshape(-1).view(_BITS[tensor.element_size()]).to(th.int64)
        plain += int(bits.sum())
        weighted += index * int((bits * th.arange(1, bits.numel() + 1, device=bits.device)).sum())
    return plain, weighted


def odd_ones_out(answers: Sequence[Hashable]) -> list[int]:
    """
    Find the ranks whose answer is not that of most; of two answers equally frequent, the lower rank's counts.

    :param answers: by rank
    :return: their ranks
    """
    (usual, _), *_ = Counter(answers).most_common()
    return [rank for rank, answer in enumerate(answers) if answer != usual]
