"""Progress on stderr: bars on a terminal, elsewhere and with -v one line per step."""

from __future__ import annotations

import os
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from edgekd.cli.options import verbose
from edgekd.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBars
    from rich.progress import TaskID

    from edgekd.system.progress import Progress


class Shown:
    """A context manager that yields the `Progress` that shows progress.

    It writes to a copy of stderr, because converters run with stderr redirected to their log.
    """

    def __init__(self) -> None:
        self.stream: TextIO = os.fdopen(os.dup(2), "w", encoding="utf-8", buffering=1)
        self.progress: ProgressBars | None = None
        self.tasks: dict[str, TaskID] = {}
        self.last = ""

    def __enter__(self) -> Progress:
        if verbose:
            return self.write_all
        if not self.stream.isatty():
            return self.write
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as ProgressBars

        self.progress = ProgressBars(
            SpinnerColumn(),
            TextColumn("{task.description:10}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[item]}", markup=False),
            console=Console(file=self.stream),
        )
        self.progress.start()
        return self.draw

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.progress:
            self.progress.stop()
        self.stream.close()

    def draw(self, stage: str, item: str, done: int = 0, total: int = 0) -> None:
        """Moves the bar of `stage`, and completes the bars of the stages before it."""
        assert self.progress is not None
        item = printable(item)
        if stage not in self.tasks:
            for task in self.progress.tasks:
                full = task.total or 1
                self.progress.update(task.id, completed=full, total=full)
            self.tasks[stage] = self.progress.add_task(stage, total=total or None, item=item)
        known = self.progress.tasks[self.progress.task_ids.index(self.tasks[stage])]
        if done < known.completed:  # The count of the next target begins.
            self.progress.reset(self.tasks[stage])
        self.progress.update(self.tasks[stage], completed=done, total=total or None, item=item)

    def write(self, stage: str, item: str, done: int = 0, total: int = 0) -> None:
        """Writes one line per step, but only every tenth part of a long count."""
        tenths = total > 20 and done % max(1, total // 10)
        if not item or (stage == self.last and tenths):
            return
        self.last = stage
        count = f" {done}/{total}" if total else ""
        self.stream.write(printable(f"{stage}{count}: {item}") + "\n")

    def write_all(self, stage: str, item: str, done: int = 0, total: int = 0) -> None:
        """Writes every step with its time."""
        count = f" {done}/{total}" if total else ""
        self.stream.write(f"{datetime.now():%H:%M:%S} {stage}{count} {printable(item)}\n")
