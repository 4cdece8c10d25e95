"""What a check of a contract says."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import torch as th


class Outcome(Enum):
    """Whether a promise is kept."""

    KEPT = "kept"
    """It was looked at and nothing speaks against it."""
    BROKEN = "broken"
    """It is not kept: the finding's detail says by how much."""
    NOT_CHECKED = "not checked"
    """It could not be looked at, or does not apply: the finding's detail says why."""


@dataclass(frozen=True)
class Finding:
    """
    One promise of a contract, looked at.

    :param promise: its name, the same for all classes under the contract
    :param outcome: whether it is kept
    :param detail: what was measured, or why it was not; a part of a sentence
    """

    promise: str
    outcome: Outcome
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.promise}: {self.outcome.value}" + (f", {self.detail}" if self.detail else "")


def failures(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """
    Keep the findings that something is wrong.

    :param findings: of any ``check_...`` function
    :return: those of broken promises, in order
    """
    return tuple(finding for finding in findings if finding.outcome is Outcome.BROKEN)


def judge(promise: str, holds: bool, detail: str = "") -> Finding:
    """
    Make a finding of a condition.

    :param promise: its name
    :param holds: the condition
    :param detail: what was measured
    :return: KEPT or BROKEN
    """
    return Finding(promise, Outcome.KEPT if holds else Outcome.BROKEN, detail)


def skip(promise: str, why: str) -> Finding:
    """
    Say that a promise was not looked at.

    :param promise: its name
    :param why: a part of a sentence
    :return: NOT_CHECKED
    """
    return Finding(promise, Outcome.NOT_CHECKED, why)


def relative_error(value: th.Tensor | Sequence[th.Tensor], expected: th.Tensor | Sequence[th.Tensor]) -> float:
    """
    Compare two vectors.

    :param value: any shapes
    :param expected: the same shapes
    :return: ‖value − expected‖ / ‖expected‖ over all elements, 0 where both are 0, infinite where shapes differ
    """
    values, expecteds = ([t] if isinstance(t, th.Tensor) else list(t) for t in (value, expected))
    if [tensor.shape for tensor in values] != [tensor.shape for tensor in expecteds]:
        return math.inf
    a, b = (th.cat([t.detach().double().cpu().reshape(-1) for t in tensors]) for tensors in (values, expecteds))
    error = float((a - b).norm())
    return 0.0 if error == 0.0 else error / max(float(b.norm()), math.ulp(0.0))


def tolerance(dtype: th.dtype) -> float:
    """
    Bound the relative error of a sum over many products.

    :param dtype: in which they are computed
    :return: 1e-3 in single and 4e-8 in double precision: far above rounding, far below a mistake
    """
    return 3.0 * math.sqrt(th.finfo(dtype).eps)
