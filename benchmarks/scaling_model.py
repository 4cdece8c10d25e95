"""What an update costs on W ranks: a model with measured parameters, to be carried to networks that nobody measured on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Link:
    """
    A network on which all-reduce goes round a ring: 2 (W − 1) hops, and 2 (W − 1) / W of the message over each link.

    :param latency: α, seconds of one hop, software included
    :param bandwidth: B, bytes a second of one link
    """

    latency: float
    bandwidth: float

    def seconds(self, ranks: int, messages: float, size: float) -> float:
        """
        Predict the time of some all-reduces.

        :param ranks: W
        :param messages: how many
        :param size: bytes of all of them together
        :return: messages · 2 (W − 1) α + size · 2 (W − 1) / (W B)
        """
        return 2 * (ranks - 1) * (messages * self.latency + size / (ranks * self.bandwidth))


@dataclass(frozen=True)
class Work:
    """
    What one rank does for one update; every rank does as much (weak scaling).

    :param states: environment steps
    :param rollout: seconds that it takes to make them
    :param rollout_std: by how much that varies from update to update, and so from rank to rank
    :param train: seconds of actor step and critic fit, without communication
    :param messages: collective operations
    :param size: bytes handed in to them
    """

    states: int
    rollout: float
    rollout_std: float
    train: float
    messages: float
    size: float


def fit_link(samples: Sequence[tuple[int, int, float]]) -> Link:
    """
    Fit latency and bandwidth to timed all-reduces, in relative error, so that small messages count as much as large ones.

    :param samples: ranks, bytes, seconds
    :return: the link; a bandwidth that the samples do not show is infinite
    """
    rows = [(2 * (ranks - 1), 2 * (ranks - 1) / ranks * size, seconds) for ranks, size, seconds in samples]
    matrix = np.array([[hops / seconds, sent / seconds] for hops, sent, seconds in rows])
    scale = np.abs(matrix).max(axis=0)
    latency, inverse = np.linalg.lstsq(matrix / scale, np.ones(len(rows)), rcond=None)[0] / scale
    return Link(max(float(latency), 0.0), 1.0 / float(inverse) if inverse > 0 else math.inf)


def slowest_of(ranks: int) -> float:
    """
    Expect the slowest of W ranks, in standard deviations above their mean (Blom, 1958).

    :param ranks: W
    :return: 0 for one
    """
    return NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))


def update_seconds(work: Work, link: Link, ranks: int) -> float:
    """
    Predict an update: all wait for the slowest rollout, compute, and talk.

    :param work: of one rank
    :param link: between them
    :param ranks: W
    :return: seconds
    """
    waiting = work.rollout_std * slowest_of(ranks)
    return work.rollout + waiting + work.train + link.seconds(ranks, work.messages, work.size)


def efficiency(work: Work, link: Link, ranks: int) -> float:
    """
    Predict which part of W times the speed of one rank is reached.

    :param work: of one rank
    :param link: between them
    :param ranks: W
    :return: in (0, 1]
    """
    return update_seconds(work, link, 1) / update_seconds(work, link, ranks)


def most_ranks(work: Work, link: Link, least: float = 0.5) -> int:
    """
    Find where scaling stops to pay.

    :param work: of one rank
    :param link: between them
    :param least: the efficiency that is still worth it
    :return: the largest number of ranks that reaches it, 1,000,000 at most
    """
    low, high = 1, 1_000_000
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if efficiency(work, link, middle) >= least else (low, middle - 1)
    return low
