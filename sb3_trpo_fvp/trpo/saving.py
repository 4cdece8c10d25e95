"""Writing files that are whole or not there."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """
    Write a file beside its place and move it there when it is complete: whoever is stopped meanwhile, or whatever fails,
    leaves the file of before as it was, and nothing else.

    A symbolic link stays one, the file that it leads to is replaced; a file that was there keeps its mode.

    :param path: the file
    :return: context with the path to write to, of the same suffix; its folder is made
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.stem}.{os.getpid()}.partial{target.suffix}")
    try:
        yield partial
        if target.exists():
            shutil.copymode(target, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
