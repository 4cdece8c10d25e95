"""
Data-parallel training on ``torch.distributed``: several processes ("ranks"), on one machine or many, train one policy.

Every rank steps environments of its own; the gradient, each Fisher-vector product, the line search and the critic's
gradients are averages over the states of all ranks, so that all ranks take the same step.
"""

from sb3_trpo_fvp.distributed.communicator import ALONE, Communicator, RankFailure
from sb3_trpo_fvp.distributed.current import communicator

__all__ = ["ALONE", "Communicator", "RankFailure", "communicator"]
