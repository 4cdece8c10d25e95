"""The torch distribution inside of an action distribution."""

from typing import Any

import torch as th
from stable_baselines3.common.distributions import (
    Distribution,
)


def base_distribution(distribution: Distribution) -> th.distributions.Distribution | None:
    """
    Take the wrappers off the torch distribution of an action distribution that change neither KL nor Fisher.

    These are ``Independent``, whose sum is done by the sum over D, and bijections of the action without parameters of
    their own, as a tanh.

    :param distribution: what ``policy.get_distribution`` returns
    :return: the torch distribution inside, None if there is none
    """
    base: Any = getattr(distribution, "distribution", None)
    while _is_wrapper(base):
        base = base.base_dist
    return base if isinstance(base, th.distributions.Distribution) else None


def _is_wrapper(distribution: object) -> bool:
    if isinstance(distribution, th.distributions.TransformedDistribution):
        return all(map(_is_fixed_bijection, distribution.transforms))
    return isinstance(distribution, th.distributions.Independent)


def _is_fixed_bijection(transform: th.distributions.Transform) -> bool:
    if isinstance(transform, th.distributions.ComposeTransform):
        return all(map(_is_fixed_bijection, transform.parts))
    held = [value for name, value in vars(transform).items() if name != "_cached_x_y"]
    return transform.bijective and not any(isinstance(value, (th.Tensor, th.distributions.Transform)) for value in held)
