"""Outcomes that tell their reader what happened and what to do."""

from enum import Enum


class Status(Enum):
    """
    How something ended. A member is written ``NAME = number, "what happened", "what to do", whether to warn``.

    ``value`` is the number, ``meaning`` and ``advice`` are the sentences, of which logs, warnings and pages take theirs; the
    advice is empty where nothing is to be done. ``needs_attention`` says whether the user should hear of it at once.
    """

    meaning: str
    advice: str
    needs_attention: bool

    def __new__(cls, value: int, meaning: str, advice: str = "", needs_attention: bool = False) -> "Status":
        """Make a member whose value is its number alone."""
        member = object.__new__(cls)
        member._value_ = value
        member.meaning = meaning
        member.advice = advice
        member.needs_attention = needs_attention
        return member

    @property
    def label(self) -> str:
        """The name as logs and pages write it."""
        return self.name.lower()

    def as_number(self) -> "NamedNumber":
        """:return: the number, which prints as the name: loggers that average or plot take it for what it is"""
        return NamedNumber.of(int(self.value), self.label)


class NamedNumber(int):
    """An integer that people read by its name."""

    label: str

    @classmethod
    def of(cls, number: int, label: str) -> "NamedNumber":
        """
        :param number: what it counts as
        :param label: what it prints as
        :return: the number with its name
        """
        named = cls(number)
        named.label = label
        return named

    def __str__(self) -> str:
        return self.label
