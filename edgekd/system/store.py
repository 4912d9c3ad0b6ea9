"""The folder of a run, and the run store: results that are computed once and looked up afterwards.

A run writes into its own folder, `runs/NAME/RUN/`. Expensive results are computed in
`runs/NAME/store/`, under the digest of everything they depend on, and copied from there. So the
next run of the recipe, or a run that continues after Ctrl-C, only computes what changed.

A stored result has a table of the digests of its files. A result that does not match its table is
computed again. Two runs at once compute a result once: a lock per result makes the second wait.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgekd.errors import Fault, RecipeError
from edgekd.system.disk_errors import disk_errors_name
from edgekd.system.files import (
    DRAFT,
    digest,
    fsync,
    make_folders,
    package_digest,
    path_digest,
    publish,
    write_json,
    written_atomically,
)
from edgekd.system.lock import locked
from edgekd.system.progress import Progress, no_progress
from edgekd.system.version import VERSION

KEY = "key.json"
"""The file in a stored result that says what the result depends on."""

MAKER = "edgekd.json"
"""The file in a store that says which edgekd used it last."""

TABLE = "digests.json"
"""The file in a stored result that lists its other files, with their sizes and sha256."""

LATEST = "latest"


def copy_tree(source: Path, destination: Path) -> None:
    """Makes `destination` a copy of the folder `source`, without the store's own files."""

    def ours(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if name in (KEY, TABLE) and Path(folder) == source]

    with written_atomically(destination) as draft:
        shutil.copytree(source, draft, ignore=ours)


def write_table(folder: Path, name: str) -> None:
    """Writes the table of the files in `folder`, which is to be the stored result `name`."""
    files = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, path_digest(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / TABLE
    }
    with disk_errors_name(folder / TABLE):
        document = {"files": files, "sha256": digest([name, files])}
        (folder / TABLE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def damaged_files(folder: Path) -> list[str]:
    """The files of the stored result `folder` that do not match its table; empty if all match.

    Every byte is read: sizes and times do not show flipped bits. Reading takes far less time than
    computing took, and than copying takes that follows.
    """
    try:
        table = json.loads((folder / TABLE).read_text(encoding="utf-8"))
        files = table["files"]
        if table["sha256"] != digest([folder.name, files]):
            return [TABLE]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return [TABLE]
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    added = found - set(files) - {TABLE}
    return sorted(
        added.union(
            name for name, (size, sha) in files.items() if not _holds(folder / name, size, sha)
        )
    )


def _holds(path: Path, size_bytes: int, sha256: str) -> bool:
    try:
        return path.stat().st_size == size_bytes and path_digest(path) == sha256
    except OSError:  # It is missing, or the disk cannot read it.
        return False


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
        make_folders(scratch)
        return scratch

    def locked(self, stage: str, key: Any) -> AbstractContextManager[None]:
        """While open, no other run computes, replaces or removes the result of `key`."""
        folder = self.stored(stage, key)
        make_folders(folder.parent)

        def waiting() -> None:
            self.progress("store", f"waiting for another run that computes the same {stage} result")

        return locked(folder.with_name(folder.name + ".lock"), waiting)

    def has(self, stage: str, key: Any) -> bool:
        """Whether the store has the result of `key`, undamaged; a damaged result is removed.

        If another run computes the result, this waits for it.
        """
        with self.locked(stage, key):
            folder = self.stored(stage, key)
            if not folder.exists() and not folder.is_symlink():
                return False
            damaged = damaged_files(folder)
            if not damaged:
                return True
            names = ", ".join(damaged[:3]) + (
                f" and {len(damaged) - 3} more" if damaged[3:] else ""
            )
            self.progress(
                "store",
                f"the stored result of {stage} does not match its digest ({names}); it is computed "
                "again",
            )
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
            else:
                folder.unlink()
            return False

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
        with self.locked(stage, key):
            reused = self.has(stage, key)
            if not reused:
                self._compute(stage, key, compute)
            elif self.reused is not None:
                self.reused.append(f"{stage}/{name}" if name else stage)
            copy_tree(folder, self.folder / stage / name)
        return StoredResult(folder=self.folder / stage / name, reused=reused)

    def _compute(self, stage: str, key: Any, compute: Callable[[Path], None]) -> None:
        """Computes the result of `key` and publishes it in the store."""
        folder, scratch = self.stored(stage, key), self.scratch(stage, key)
        with disk_errors_name(scratch):
            compute(scratch)
        for draft in list(scratch.rglob(f"{DRAFT}*")):  # Left behind by a killed process.
            shutil.rmtree(draft, ignore_errors=True)
        write_json(scratch / KEY, key)
        write_table(scratch, folder.name)
        publish(scratch, folder)

    def fresh(self, stage: str, name: str, compute: Callable[[Path], None]) -> Path:
        """The folder `stage/name` of the run, filled by `compute`; the store is not used."""
        folder = self.folder / stage / name
        folder.mkdir(parents=True, exist_ok=True)
        compute(folder)
        return folder


def open_run(out: Path, name: str, seed: int, progress: Progress) -> Run:
    """A new run in the folder `out/NAME/RUN/`, whose name is the current time in UTC.

    If another version of edgekd used the store, `progress` reports that its results are recomputed.

    Raises:
        RecipeError: the link to the latest run cannot be written.
        OSError: `out` cannot be written.
    """
    home = out / name
    _make_home(home)
    _check_latest(home)
    folder = _new_folder(home, datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%S"))
    log = folder / "log.txt"

    def logged(stage: str, item: str, done: int = 0, total: int = 0) -> None:
        progress(stage, item, done, total)
        time = datetime.now(timezone.utc).strftime("%H:%M:%S")
        with disk_errors_name(log), log.open("a", encoding="utf-8") as file:
            file.write(f"{time} {stage}{f' {done}/{total}' if total else ''} {item}\n")

    run = Run(folder=folder, store=home / "store", seed=seed, progress=logged, reused=[])
    maker = other_maker(run.store)
    if maker is not None:
        run.progress(
            "store", f"the results in {run.store} are from {maker}; this run computes them again"
        )
    write_json(run.store / MAKER, {"version": VERSION, "package": package_digest()})
    return run


def _make_home(home: Path) -> None:
    try:
        make_folders(home)
    except FileNotFoundError as error:  # Its parent cannot hold folders, like /proc.
        raise RecipeError(
            Fault(
                what="The folder of the runs cannot be made.",
                at=str(home),
                got=f"{type(error).__name__}: {error.strerror}",
                expected="a path in which folders can be made",
                fix="choose another path with --out",
            )
        ) from error


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
    """Points `runs/NAME/latest` at `run`.

    Raises:
        RecipeError: a file or folder of this name is there; it is left as it is.
    """
    _check_latest(run.folder.parent)
    with written_atomically(run.folder.parent / LATEST) as draft:
        draft.symlink_to(run.folder.name, target_is_directory=True)


def _new_folder(home: Path, stamp: str) -> Path:
    """A new folder in `home`, also if another run creates one in the same second."""
    number = 1
    while True:
        folder = home / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            continue
        fsync(home)
        return folder


def _check_latest(home: Path) -> None:
    """Checks that the link to the latest run can be written without deleting anything."""
    path = home / LATEST
    if not path.exists() or path.is_symlink():
        return
    raise RecipeError(
        Fault(
            what="The link to the latest run cannot be written.",
            at=str(path),
            got=f"a {'folder' if path.is_dir() else 'file'} that edgekd did not write",
            expected="no such name, or the link that an earlier run wrote",
            fix=f"move {path} away, or choose another folder with --out",
        )
    )
