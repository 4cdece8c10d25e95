"""Statuses: one number each, which prints as its name and counts as a number wherever numbers are asked for."""

import json
import pickle
from io import StringIO

import numpy as np
import pytest
from stable_baselines3.common.logger import CSVOutputFormat, HumanOutputFormat, Logger

from sb3_trpo_fvp.critic.fit import CriticStatus
from sb3_trpo_fvp.linalg.conjugate_gradient import CGStatus
from sb3_trpo_fvp.linalg.status import NamedNumber, Status
from sb3_trpo_fvp.trust_region import StepStatus

KINDS = (StepStatus, CGStatus, CriticStatus)


@pytest.mark.parametrize("kind", KINDS)
def test_every_status_says_what_happened_and_those_that_warn_what_to_do(kind: type[Status]) -> None:
    assert len({status.value for status in kind}) == len(kind)
    for status in kind:
        assert kind(status.value) is status
        assert status.meaning
        assert status.advice or not status.needs_attention


def test_it_counts_as_a_number_and_prints_as_a_name() -> None:
    number = StepStatus.ZERO_GRADIENT.as_number()
    assert number == 2
    assert str(number) == "zero_gradient"
    assert json.dumps({"status": number}) == '{"status": 2}'
    assert np.mean([number, CGStatus.CONVERGED.as_number()]) == 1.0
    assert isinstance(number, np.ScalarType)  # what SB3's TensorBoard writer asks
    copy = pickle.loads(pickle.dumps(number))
    assert (copy, str(copy)) == (2, "zero_gradient")
    assert str(NamedNumber.of(7, "seven")) == "seven"


def test_loggers_that_average_take_it() -> None:
    logger = Logger(None, [])
    for status in (StepStatus.ACCEPTED, StepStatus.ZERO_GRADIENT):
        logger.record_mean("status", status.as_number())
    assert logger.name_to_value["status"] == 1.0


def test_people_read_the_name(tmp_path) -> None:  # type: ignore[no-untyped-def]
    console = StringIO()
    csv = CSVOutputFormat(str(tmp_path / "log.csv"))
    logger = Logger(None, [HumanOutputFormat(console), csv])
    logger.record("trust_region/status", StepStatus.ACCEPTED.as_number())
    logger.dump(0)
    csv.close()
    assert "accepted" in console.getvalue()
    assert (tmp_path / "log.csv").read_text().splitlines()[1] == "accepted"
