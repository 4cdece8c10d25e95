"""What an update makes of the advantages."""

import torch as th

from sb3_trpo_fvp.distributed import ALONE, Communicator
from sb3_trpo_fvp.distributed.statistics import pooled_moments


def normalize(advantages: th.Tensor, comm: Communicator = ALONE, weights: th.Tensor | None = None) -> th.Tensor:
    """
    Shift to mean 0 and scale to standard deviation 1 over the states of all ranks, in double precision.

    Advantages that differ by nothing but rounding become exactly 0: scaled up, the noise would be taken for a signal
    and a full trust-region step be made of it.

    :param advantages: shape (N,)
    :param comm: who else has advantages of this rollout
    :param weights: how much each counts in mean and standard deviation, shape (N,); all alike by default
    :return: shape (N,), of the same dtype
    """
    moments = pooled_moments(advantages, comm, weights)
    if moments.std <= 4.0 * th.finfo(advantages.dtype).eps * moments.largest:
        return th.zeros_like(advantages)
    return ((advantages.double() - moments.mean) / (moments.std + 1e-8)).to(advantages.dtype)
