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


def monte_carlo_kl(old_log_prob: th.Tensor, new_log_prob: th.Tensor, weights: th.Tensor | None = None) -> th.Tensor:
    """
    Estimate KL(old ‖ new) from the actions that the old policy took: (1/M) Σ (log π_old(a|s) − log π_new(a|s)).

    Unbiased, and negative by chance where the KL is below its standard error, about √(2 KL / M).

    :param old_log_prob: log π_old of each action taken, shape (M,)
    :param new_log_prob: log π_new of the same actions, shape (M,)
    :param weights: ratios of the old policy to the one that took each action, where that was another, shape (M,)
    :return: nats, scalar
    """
    log_ratio = old_log_prob - new_log_prob
    return (log_ratio if weights is None else weights * log_ratio).mean()
