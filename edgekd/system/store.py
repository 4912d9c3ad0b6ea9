"""The folder of a run, and the run store: results that are computed once and looked up afterwards.

A run writes into its own folder, `runs/NAME/RUN/`. Expensive results are computed in
`runs/NAME/store/`, under the digest of everything they depend on, and copied from there. So the
next run of the recipe, or a run that continues after Ctrl-C, only computes what changed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgekd.system.files import digest, package_digest, write_json, written_atomically
from edgekd.system.progress import Progress, no_progress
from edgekd.system.version import VERSION

KEY = "key.json"
"""The file in a stored result that says what the result depends on."""

MAKER = "edgekd.json"
"""The file in a store that says which edgekd used it last."""


def copy_tree(source: Path, destination: Path) -> None:
    """Makes `destination` a copy of the folder `source`, without the store's own files."""
    with written_atomically(destination) as draft:
        shutil.copytree(source, draft, ignore=shutil.ignore_patterns(KEY))


@dataclass(frozen=True)
class StoredResult:
    """A copy of a stored result in the run's folder, and whether an earlier run computed it."""

    folder: Path
    reused: bool


@dataclass(frozen=True)
class Run:
    """One run: its folder, its store and its seed.

    Attributes:
        folder: `runs/NAME/RUN/`.
        store: the folder of results that later runs may reuse.
        seed: the seed of everything random.
        progress: receives the progress of every stage.
        reused: the results that were looked up, as "stage/name"; grows during the run.
        spawn: starts other processes that train together; None if this process trains alone, or
            is one of them.
    """

    folder: Path
    store: Path
    seed: int
    progress: Progress = no_progress
    reused: list[str] | None = None
    spawn: Callable[[], None] | None = None

    @property
    def log(self) -> Path:
        """The run's log file, which also takes the output of converters."""
        return self.folder / "log.txt"

    def stored(self, stage: str, key: Any) -> Path:
        """The folder of the result of `key` in the store, whether or not it exists."""
        return self.store / stage / digest([stage, key, package_digest()])[:32]

    def scratch(self, stage: str, key: Any) -> Path:
        """The folder in which the result of `key` is computed; it survives an interruption."""
        folder = self.stored(stage, key)
        scratch = folder.with_name(folder.name + ".partial")
        scratch.mkdir(parents=True, exist_ok=True)
        return scratch

    def has(self, stage: str, key: Any) -> bool:
        """Whether the store has the result of `key`."""
        return (self.stored(stage, key) / KEY).exists()

    def make(
        self, stage: str, name: str, key: Any, compute: Callable[[Path], None]
    ) -> StoredResult:
        """The result of `key`, computed now or looked up, as the folder `stage/name` of the run.

        Args:
            key: a JSON document of everything the result depends on.
            compute: fills the folder that it gets. After an interruption it gets the same folder
                again, and may continue from what it wrote there.
        """
        folder = self.stored(stage, key)
        reused = self.has(stage, key)
        if not reused:
            scratch = self.scratch(stage, key)
            compute(scratch)
            write_json(scratch / KEY, key)
            if folder.exists():
                shutil.rmtree(folder)
            scratch.replace(folder)
        elif self.reused is not None:
            self.reused.append(f"{stage}/{name}" if name else stage)
        copy_tree(folder, self.folder / stage / name)
        return StoredResult(folder=self.folder / stage / name, reused=reused)

    def fresh(self, stage: str, name: str, compute: Callable[[Path], None]) -> Path:
        """The folder `stage/name` of the run, filled by `compute`; the store is not used."""
        folder = self.folder / stage / name
        folder.mkdir(parents=True, exist_ok=True)
        compute(folder)
        return folder


def open_run(out: Path, name: str, seed: int, progress: Progress) -> Run:
    """A new run in the folder `out/NAME/RUN/`, whose name is the current time in UTC.

    If another version of edgekd used the store, `progress` reports that its results are recomputed.
    """
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

    run = Run(folder=folder, store=home / "store", seed=seed, progress=logged, reused=[])
    maker = other_maker(run.store)
    if maker is not None:
        run.progress(
            "store", f"the results in {run.store} are from {maker}; this run computes them again"
        )
    write_json(run.store / MAKER, {"version": VERSION, "package": package_digest()})
    return run


def other_maker(store: Path) -> str | None:
    """The edgekd that used `store` last, in words; None if it was this one, or if it is empty."""
    if not store.is_dir() or not any(store.iterdir()):
        return None
    try:
        document = json.loads((store / MAKER).read_text(encoding="utf-8"))
        version, package = document["version"], document["package"]
    except (OSError, ValueError, KeyError, TypeError):
        return "an earlier edgekd"
    if package == package_digest():
        return None
    return f"edgekd {version}" if version != VERSION else f"another build of edgekd {version}"


def mark_latest(run: Run) -> None:
    """Points `runs/NAME/latest` at `run`."""
    with written_atomically(run.folder.parent / "latest") as draft:
        draft.symlink_to(run.folder.name, target_is_directory=True)
