"""Writing files that are whole or not there, and models in them."""

import contextlib
import io
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from sb3_trpo_fvp.distributed import communicator
from sb3_trpo_fvp.distributed.algorithm import DataParallelAlgorithm


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


class SavedWhole(DataParallelAlgorithm):
    """An algorithm whose file is the last whole one, whenever it is stopped; several ranks write one."""

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save, see ``BaseAlgorithm.save``; on rank 0 only. A run that is stopped meanwhile leaves the last file as it was.

        :param path: path to the file where the model should be saved
        :param exclude: name of parameters that should be excluded in addition to the default ones
        :param include: name of parameters that might be excluded but should be included anyway
        """
        if communicator().rank > 0:
            return
        if not isinstance(path, (str, pathlib.Path)):
            super().save(path, exclude, include)
            return
        with replacing(path if pathlib.Path(path).suffix else f"{path}.zip") as partial:
            super().save(partial, exclude, include)
