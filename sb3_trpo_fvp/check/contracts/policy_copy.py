"""Copies of policies, for checks that leave the original alone."""

import copy

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn


def copy_policy(policy: ActorCriticPolicy) -> ActorCriticPolicy:
    """
    Copy a policy with its optimizer.

    :param policy: the policy
    :return: the copy; what its action distribution shares with the original is overwritten by its own next forward pass
    """
    distribution = policy.action_dist
    # The tensors of the last forward pass have graphs, which cannot be copied.
    shared = {} if isinstance(distribution, nn.Module) else {id(distribution): copy.copy(distribution)}
    return copy.deepcopy(policy, shared)
