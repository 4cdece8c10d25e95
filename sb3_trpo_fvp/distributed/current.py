"""Which communicator this process has now."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from sb3_trpo_fvp.distributed.communicator import ALONE, Communicator

# A group, and the store behind it, that is still held when the interpreter ends takes the process down with it.
_groups: WeakKeyDictionary[Any, Communicator] = WeakKeyDictionary()
_replacements: list[Communicator] = []


def communicator() -> Communicator:
    """
    Find out who else takes part.

    :return: :data:`ALONE`, or inside an initialised ``torch.distributed`` process group of several ranks, that group: the
        same object for as long as the group exists
    """
    if _replacements:
        return _replacements[-1]
    # Not imported: where nobody has, there is no group.
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return ALONE
    if distributed.get_world_size() == 1:
        return ALONE
    from sb3_trpo_fvp.distributed.process_group import ProcessGroup

    world: Any = distributed.group.WORLD
    if world not in _groups:
        _groups[world] = ProcessGroup()
    return _groups[world]


@contextmanager
def replaced_by(comm: Communicator) -> Iterator[None]:
    """
    Let this process talk through another communicator for the while: one that counts what is sent, say.

    :param comm: what :func:`communicator` returns inside
    """
    _replacements.append(comm)
    try:
        yield
    finally:
        _replacements.pop()
