"""How far two policies are from each other."""

import torch as th

from sb3_trpo_fvp.distributions.families import DistributionFamily, Phi


def joint_kl(family: DistributionFamily, old: Phi, new: Phi) -> th.Tensor:
    """
    Mean over the states of KL(old ‖ new) of the joint action (TRPO, equation 12: the old policy comes first).

    :param family: what φ are the parameters of
    :param old: φ of the old policy
    :param new: φ of the new policy
    :return: nats, scalar
    """
    return family.kl(old, new).sum(-1).mean()


def monte_carlo_kl(old_log_prob: th.Tensor, new_log_prob: th.Tensor) -> th.Tensor:
    """
    Estimate KL(old ‖ new) from the actions that the old policy took: (1/M) Σ (log π_old(a|s) − log π_new(a|s)).

    Unbiased, and negative by chance where the KL is below its standard error, about √(2 KL / M).

    :param old_log_prob: log π_old of each action taken, shape (M,)
    :param new_log_prob: log π_new of the same actions, shape (M,)
    :return: nats, scalar
    """
    return (old_log_prob - new_log_prob).mean()
