"""What an update costs on W ranks: a model with measured parameters, to be carried to networks that nobody measured on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from sb3_trpo_fvp.critic.adam import MOST_RANKS

GATHERING_MESSAGES = 10
"""To bring the states together: batch sizes, features, returns and the order of the minibatches."""


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
    :param messages: collective operations, if the minibatches of an Adam critic are averaged
    :param size: bytes handed in to them
    :param fit: seconds of the critic fit, part of ``train``, where few ranks bring the states together instead
    :param fit_messages: of ``messages``, those of the fit; 0 where it is always done together
    :param fit_size: of ``size``, the bytes of those
    :param gathered: bytes of this rank's states
    """

    states: int
    rollout: float
    rollout_std: float
    train: float
    messages: float
    size: float
    fit: float = 0.0
    fit_messages: float = 0.0
    fit_size: float = 0.0
    gathered: float = 0.0

    def on(self, ranks: int) -> "Work":
        """
        Choose as the critic does: few ranks bring their states together and fit all of them, each for itself.

        :param ranks: W
        :return: what a rank does then; a fit of W times the states is taken to cost W times as much
        """
        if not 1 < ranks <= MOST_RANKS or not self.fit_messages:
            return self
        return replace(
            self,
            train=self.train + (ranks - 1) * self.fit,
            messages=self.messages - self.fit_messages + GATHERING_MESSAGES,
            # A ring passes all but one part on; in units of an all-reduce, which sends 2 (W - 1) / W of its bytes.
            size=self.size - self.fit_size + self.gathered * ranks / 2,
        )


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
    work = work.on(ranks)
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
    few = [ranks for ranks in range(1, MOST_RANKS + 1) if efficiency(work, link, ranks) >= least]
    if efficiency(work, link, MOST_RANKS + 1) < least:
        return max(few)
    low, high = MOST_RANKS + 1, 1_000_000
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if efficiency(work, link, middle) >= least else (low, middle - 1)
    return low
