"""The runs of a grid on this machine, several at once, each a process of its own."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import sb3_trpo_fvp
from sb3_trpo_fvp.distributed.parent import exit_on, kill_group
from sb3_trpo_fvp.zoo.command_line import UserError
from sb3_trpo_fvp.zoo.results import FINISHED, Result
from sb3_trpo_fvp.zoo.sweeps.run import PROGRESS
from sb3_trpo_fvp.zoo.sweeps.settings import difference, settings_of
from sb3_trpo_fvp.zoo.sweeps.sweep import LONGEST_NAME, SweepRun

try:
    import fcntl
except ImportError:  # Windows: runners of one folder do not see each other there
    fcntl = None  # type: ignore[assignment]

LOG = "log.txt"
REPLACED = ".replaced"
"""Folder, in the sweep's, of finished runs that no longer count."""
POLL_SECONDS = 0.2
PATIENCE_SECONDS = 15.0
"""How long a stopped run may take to end before it is killed."""


@dataclass
class Job:
    """A run that goes on: its process, its open files and its bar."""

    run: SweepRun
    folder: Path
    process: subprocess.Popen[bytes]
    files: Sequence[IO[Any]]
    bar: TaskID
    total: float = 0.0

    def progress(self) -> tuple[int, int] | None:
        """:return: steps done and steps in all, as the run last reported them"""
        try:
            done, total = (self.folder / PROGRESS).read_text().split()
            return int(done), int(total)
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Close the log and let the lock go."""
        for file in self.files:
            file.close()


class Runner:
    """
    Runs the runs of a sweep as processes of their own, and skips those that are finished.

    Every run has a folder, named by its parameters: ``log.txt`` with its output, RL-Zoo's files (``evaluations.npz``,
    ``progress.csv``, the models), and ``finished.json`` once it came to its end. A run without that file is started afresh.
    A run that finished with other hyperparameters than it would have today, or whose files are broken, is put into
    ``.replaced/`` and run again.

    :param runs: the runs
    :param output: the folder of the sweep
    :param jobs: how many run at once
    :param wandb_project: the project to track in, offline unless ``WANDB_MODE`` says otherwise; ``None`` for no tracking
    :param console: where the progress is shown
    """

    def __init__(
        self,
        runs: Sequence[SweepRun],
        output: Path,
        jobs: int,
        wandb_project: str | None = None,
        console: Console | None = None,
    ) -> None:
        self.runs = list(runs)
        self.output = output.resolve()
        self.jobs = jobs
        self.wandb_project = wandb_project
        self.console = console or Console(soft_wrap=True)
        self.failed: list[SweepRun] = []
        self._faults: dict[tuple[str, int], str] = {}

    def folder(self, run: SweepRun) -> Path:
        """
        :param run: a run of the sweep
        :return: its folder
        """
        return self.output / run.name

    def is_finished(self, run: SweepRun) -> bool:
        """
        :param run: a run of the sweep
        :return: whether it came to its end, now or in an earlier call
        """
        return self.fault(run) == ""

    def fault(self, run: SweepRun) -> str | None:
        """
        :param run: a run of the sweep
        :return: why it does not count although it came to its end; nothing if it does, ``None`` if it has not ended
        """
        try:
            # The marker is written at once and last.
            key = run.name, (self.folder(run) / FINISHED).stat().st_mtime_ns
        except OSError:
            return None
        if key not in self._faults:
            self._faults[key] = self._find_fault(run)
        return self._faults[key]

    def _find_fault(self, run: SweepRun) -> str:
        try:
            result = Result.load(self.folder(run))
            with suppress(FileNotFoundError):  # not evaluated
                result.evaluations()
        except ValueError as error:
            return str(error)
        try:
            changed = difference(result.settings, settings_of(run))
        except UserError:  # the file was broken since the sweep began: no reason to throw a result away
            changed = ""
        return f"it finished with {changed}" if changed else ""

    def run(self) -> bool:
        """
        Run what is not finished yet. Ctrl-C, SIGTERM and SIGHUP stop the runs that go on, and leave the finished ones. The
        runs also end when this process is killed.

        :return: whether every run is finished
        """
        waiting = deque(run for run in self.runs if not self.is_finished(run))
        done = len(self.runs) - len(waiting)
        if done:
            self.console.print(f"{done} of {len(self.runs)} runs were finished before")
        for run in waiting:
            if fault := self.fault(run):
                self.console.print(f"[yellow]again[/] {escape(run.name)}: {escape(fault)}", highlight=False)
        going: list[Job] = []
        progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn(),
            TimeRemainingColumn(), console=self.console,
        )  # fmt: skip
        with exit_on("SIGTERM", "SIGHUP"), progress:
            overall = progress.add_task(f"{len(self.runs)} runs", total=len(self.runs), completed=done, state=self._state(0))
            try:
                while waiting or going:
                    while waiting and len(going) < self.jobs:
                        run = waiting.popleft()
                        try:
                            job = self._start(run, progress)
                        except OSError as error:
                            self.failed.append(run)
                            self.console.print(f"[red]failed[/] {escape(run.name)}: {escape(str(error))}", highlight=False)
                            continue
                        going += [job] if job is not None else []
                    time.sleep(POLL_SECONDS)
                    for job in list(going):
                        if job.process.poll() is None:
                            self._show(job, progress)
                            continue
                        going.remove(job)
                        self._end(job, progress)
                    partial = sum(progress.tasks[progress.task_ids.index(job.bar)].percentage / 100 for job in going)
                    finished = sum(map(self.is_finished, self.runs))
                    progress.update(overall, completed=finished + partial, state=self._state(len(going)))
            except BaseException:
                self._stop(going)
                self.console.print(f"Stopped. Finished runs are in {self.output}; the same command goes on with the others.")
                raise
        return all(map(self.is_finished, self.runs))

    def _state(self, going: int) -> str:
        finished = sum(map(self.is_finished, self.runs))
        failed = f", [red]{len(self.failed)} failed[/]" if self.failed else ""
        return f"{finished} finished, {going} running{failed}"

    def _start(self, run: SweepRun, progress: Progress) -> Job | None:
        folder = self.folder(run)
        lock = self._lock(run)
        if lock is None:
            self.console.print(f"[yellow]skipped[/] {escape(run.name)}: another process is running it")
            return None
        if self.is_finished(run):  # by another process, since the list was made
            lock.close()
            return None
        if (folder / FINISHED).is_file():  # it no longer counts
            self._put_aside(folder)
        elif (folder / LOG).is_file():  # what an unfinished attempt left: RL-Zoo would count on from it
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        log = (folder / LOG).open("wb")
        command = [
            sys.executable,
            "-m",
            "sb3_trpo_fvp",
            "sweep-run",
            json.dumps(dict(run.parameters)),
            "--output",
            str(folder),
            "--parent",
            str(os.getpid()),
        ]
        command += ["--wandb-project-name", self.wandb_project] if self.wandb_project else ["--no-wandb"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self._environment(run),
            start_new_session=True,  # Ctrl-C is for this process, which stops its runs itself
            pass_fds=(lock.fileno(),) if fcntl else (),  # the run keeps the lock, whatever becomes of this process
        )
        total = run.options.get("n_timesteps")
        bar = progress.add_task(
            escape(f"  {run.variant} {run.options['env']} seed {run.options.get('seed')}"), total=total, state=""
        )
        return Job(run, folder, process, (log, lock), bar)

    def _put_aside(self, folder: Path) -> None:
        (self.output / REPLACED).mkdir(exist_ok=True)
        numbered = (self.output / REPLACED / f"{folder.name[-LONGEST_NAME + 6 :]}.{number}" for number in itertools.count(1))
        folder.rename(next(path for path in numbered if not path.exists()))

    def _lock(self, run: SweepRun) -> IO[str] | None:
        """A lock that lasts as long as the run's process, so that two runners of one folder share its runs."""
        path = self.output / ".locks" / run.name
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
        try:
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return None
        return lock

    def _environment(self, run: SweepRun) -> dict[str, str]:
        environment = dict(os.environ)
        root = str(Path(sb3_trpo_fvp.__file__).resolve().parents[1])  # the run starts in a folder of its own
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        if self.jobs > 1:
            # Runs that each take every core slow each other down.
            environment.setdefault("OMP_NUM_THREADS", str(run.options.get("num_threads", 1)))
        if self.wandb_project:
            environment.setdefault("WANDB_MODE", "offline")
            environment["WANDB_DIR"] = str(self.folder(run))
            if environment["WANDB_MODE"] == "offline":
                environment.setdefault("WANDB_ERROR_REPORTING", "false")
        return environment

    def _show(self, job: Job, progress: Progress) -> None:
        reported = job.progress()
        if reported is not None:
            done, total = reported
            progress.update(job.bar, completed=done, total=total, state=f"{done:,} of {total:,} steps")

    def _end(self, job: Job, progress: Progress) -> None:
        job.close()
        progress.remove_task(job.bar)
        if job.process.returncode == 0 and self.is_finished(job.run):
            self.console.print(f"[green]finished[/] {escape(job.run.name)}: {last_evaluation(job.folder)}")
            return
        self.failed.append(job.run)
        log = (job.folder / LOG).read_text(errors="replace").strip().splitlines()
        self.console.print(f"[red]failed[/] {escape(job.run.name)} (exit code {job.process.returncode}); the end of its log:")
        for line in log[-8:]:
            self.console.print(f"    {escape(line)}", highlight=False)
        self.console.print(f"    log: {job.folder / LOG}", highlight=False)

    def _stop(self, going: Sequence[Job]) -> None:
        for job in going:
            job.process.terminate()
        deadline = time.monotonic() + PATIENCE_SECONDS
        for job in going:
            try:
                job.process.wait(max(0.0, deadline - time.monotonic()))
            except (subprocess.TimeoutExpired, KeyboardInterrupt, SystemExit):
                kill_group(job.process.pid)
                job.process.wait()
            job.close()


def last_evaluation(folder: Path) -> str:
    """
    Say how a run ended.

    :param folder: the folder of a finished run
    :return: the mean return of its last evaluation, for people
    """
    try:
        return f"mean return {Result.load(folder).evaluations()[1][-1].mean():.1f}"
    except (FileNotFoundError, ValueError) as error:
        return "not evaluated" if isinstance(error, FileNotFoundError) else str(error)
