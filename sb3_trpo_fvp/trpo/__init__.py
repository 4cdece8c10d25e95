"""The algorithm: constructor, update, log."""

from sb3_trpo_fvp.trpo.algorithm import TRPO

__all__ = ["TRPO"]
