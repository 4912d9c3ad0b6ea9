"""What is on disk: atomic writes, digests, and results that are made once and looked up after.

A run writes into its own folder, `runs/NAME/RUN/`. What is costly is made in `runs/NAME/store/`,
under the digest of everything it depends on, and copied from there, so that the next run of the
recipe, or one that continues after Ctrl-C, does only what changed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgekd.system.files import digest, package_digest, write_json, written_atomically
from edgekd.system.progress import Progress, no_progress

KEY = "key.json"
"""In a folder of the store: what its contents depend on."""


def copy_tree(source: Path, destination: Path) -> None:
    """Makes `destination` hold the files of the folder `source`, without the store's own."""
    with written_atomically(destination) as draft:
        shutil.copytree(source, draft, ignore=shutil.ignore_patterns(KEY))


@dataclass(frozen=True)
class Made:
    """A folder in the store, and whether an earlier run had made it."""

    folder: Path
    reused: bool


@dataclass(frozen=True)
class Run:
    """One run's place on disk and its seed.

    Attributes:
        folder: `runs/NAME/RUN/`.
        store: where results that later runs may use are made.
        seed: of everything random.
        tell: who is told how far the work is.
        reused: what was looked up instead of made, "stage/name" each; grows while the run goes on.
        spawn: has other processes train together what this one would train alone; None where it
            does, or is one of them.
    """

    folder: Path
    store: Path
    seed: int
    progress: Progress = no_progress
    reused: list[str] | None = None
    spawn: Callable[[], None] | None = None

    @property
    def log(self) -> Path:
        """The run's log, where converters' output goes."""
        return self.folder / "log.txt"

    def place(self, stage: str, key: Any, *, partial: bool = False) -> Path:
        """Where in the store the result of `key` is, or while it is made, its scratch folder."""
        place = self.store / stage / digest([stage, key, package_digest()])[:32]
        if partial:
            place = place.with_name(place.name + ".partial")
            place.mkdir(parents=True, exist_ok=True)
        return place

    def has(self, stage: str, key: Any) -> bool:
        """Whether the result of `key` is in the store."""
        return (self.place(stage, key) / KEY).exists()

    def make(self, stage: str, name: str, key: Any, work: Callable[[Path], None]) -> Made:
        """The folder that `work` fills, made now or found under the same `key`.

        It is copied into the run at `stage/name`. `work` gets a scratch folder in the store that
        outlives an interruption (`partial`), so that what it writes there can be continued.

        Args:
            key: a JSON document of everything the result depends on.
        """
        place = self.place(stage, key)
        reused = self.has(stage, key)
        if not reused:
            partial = self.place(stage, key, partial=True)
            work(partial)
            write_json(partial / KEY, key)
            if place.exists():
                shutil.rmtree(place)
            partial.replace(place)
        elif self.reused is not None:
            self.reused.append(f"{stage}/{name}" if name else stage)
        copy_tree(place, self.folder / stage / name)
        return Made(folder=self.folder / stage / name, reused=reused)

    def fresh(self, stage: str, name: str, work: Callable[[Path], None]) -> Path:
        """The folder `stage/name` of the run that `work` fills, whatever earlier runs made."""
        folder = self.folder / stage / name
        folder.mkdir(parents=True, exist_ok=True)
        work(folder)
        return folder


def open_run(out: Path, name: str, seed: int, progress: Progress) -> Run:
    """A new run folder `out/NAME/RUN/`, named after the time, UTC."""
    home = out / name
    stamp = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%S")
    folder = home / stamp
    number = 1
    while folder.exists():
        number += 1
        folder = home / f"{stamp}-{number}"
    folder.mkdir(parents=True)
    log = folder / "log.txt"

    def logged(stage: str, item: str, done: int = 0, total: int = 0) -> None:
        time = datetime.now(timezone.utc).strftime("%H:%M:%S")
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{time} {stage}{f' {done}/{total}' if total else ''} {item}\n")
        progress(stage, item, done, total)

    return Run(folder=folder, store=home / "store", seed=seed, progress=logged, reused=[])


def mark_latest(run: Run) -> None:
    """Points `runs/NAME/latest` at `run`."""
    with written_atomically(run.folder.parent / "latest") as draft:
        draft.symlink_to(run.folder.name, target_is_directory=True)
