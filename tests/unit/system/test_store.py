from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.errors import RecipeError
from edgekd.system.files import digest, path_digest, write_json, written_atomically
from edgekd.system.lock import locked
from edgekd.system.progress import no_progress
from edgekd.system.store import (
    TABLE,
    Run,
    StoredResult,
    damaged_files,
    mark_latest,
    open_run,
    other_maker,
)
from edgekd.system.version import VERSION
from tests.support.project import assert_five_parts


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})

    def fail() -> None:
        with written_atomically(path) as draft:
            draft.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_never_contains_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "x.json", {"sqnr_db": float("inf")})


def test_a_digest_depends_on_contents_and_names_only(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_bytes(b"x")
    assert path_digest(tmp_path / "one") == path_digest(tmp_path / "two")
    (tmp_path / "two" / "deep" / "file").write_bytes(b"y")
    assert path_digest(tmp_path / "one") != path_digest(tmp_path / "two")
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return open_run(tmp_path, "name", 0, no_progress)


def test_a_result_is_reused_until_its_key_changes(run: Run, tmp_path: Path) -> None:
    calls: list[Path] = []

    def work(folder: Path) -> None:
        calls.append(folder)
        (folder / "weights").write_text("w")

    first = run.make("train", "", {"epochs": 1}, work)
    assert not first.reused
    later = open_run(tmp_path, "name", 0, no_progress)
    second = later.make("train", "", {"epochs": 1}, work)
    assert second.reused
    assert later.reused == ["train"]
    assert (second.folder / "weights").read_text() == "w"
    assert not later.make("train", "", {"epochs": 2}, work).reused
    assert len(calls) == 2


def test_a_run_cannot_damage_results_that_a_later_run_reuses(run: Run, tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        (folder / "weights").write_text("good")

    made = run.make("train", "", {}, work)
    (made.folder / "weights").write_text("spoiled")
    later = open_run(tmp_path, "name", 0, no_progress)
    assert (later.make("train", "", {}, work).folder / "weights").read_text() == "good"


def test_interrupted_work_finds_its_earlier_files(run: Run) -> None:
    def stopped(folder: Path) -> None:
        (folder / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.make("train", "", {}, stopped)

    def go_on(folder: Path) -> None:
        assert (folder / "checkpoint").read_text() == "half"

    assert not run.make("train", "", {}, go_on).reused


def test_results_of_another_version_are_recomputed_and_the_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(folder: Path) -> None:
        (folder / "weights").write_text("w")

    open_run(tmp_path, "name", 0, no_progress).make("train", "", {}, compute)
    lines: list[str] = []

    def progress(stage: str, item: str, done: int = 0, total: int = 0) -> None:  # noqa: ARG001
        lines.append(f"{stage} {item}")

    assert open_run(tmp_path, "name", 0, progress).make("train", "", {}, compute).reused
    assert lines == []
    monkeypatch.setattr("edgekd.system.store.package_digest", lambda: "another")
    monkeypatch.setattr("edgekd.system.store.VERSION", "9.9.9")
    later = open_run(tmp_path, "name", 0, progress)
    assert len(lines) == 1
    assert f"are from edgekd {VERSION}; this run computes them again" in lines[0]
    assert lines[0] in later.log.read_text()
    assert not later.make("train", "", {}, compute).reused
    (later.store / "edgekd.json").unlink()
    assert other_maker(later.store) == "an earlier edgekd"


def test_two_runs_in_a_second_have_their_own_folders_and_latest_is_the_newest(
    tmp_path: Path,
) -> None:
    runs = [open_run(tmp_path, "name", 0, no_progress) for _ in range(2)]
    assert runs[0].folder != runs[1].folder
    for run in runs:
        mark_latest(run)
    assert (tmp_path / "name" / "latest").resolve() == runs[1].folder.resolve()


class Recorded:
    """Runs that share a store, what they report and how often they computed the result."""

    def __init__(self, out: Path) -> None:
        self.out, self.lines, self.computed = out, list[str](), 0

    def open(self) -> Run:
        def progress(stage: str, item: str, done: int = 0, total: int = 0) -> None:  # noqa: ARG001
            self.lines.append(item)

        return open_run(self.out, "name", 0, progress)

    def compute(self, folder: Path) -> None:
        self.computed += 1
        (folder / "deep").mkdir(exist_ok=True)
        (folder / "weights").write_bytes(b"weights")
        (folder / "deep" / "log").write_bytes(b"log")

    def make(self, key: str = "key") -> StoredResult:
        return self.open().make("distill", "", key, self.compute)


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def assert_computed_again(recorded: Recorded, expected: dict[str, bytes], name: str) -> None:
    """Assert that the next run reports the damage, computes the result again, and stores it."""
    recorded.lines, recorded.computed = [], 0
    run = recorded.open()
    result = run.make("distill", "", "key", recorded.compute)
    assert contents(result.folder) == expected
    assert not result.reused
    assert run.reused == []
    assert recorded.computed == 1
    assert recorded.lines == [
        f"the stored result of distill does not match its digest ({name}); it is computed again"
    ]
    assert recorded.lines[0] in run.log.read_text()
    assert recorded.make().reused


def test_any_changed_byte_of_a_stored_result_makes_it_again(recorded: Recorded) -> None:
    expected = contents(recorded.make().folder)
    stored = recorded.open().stored("distill", "key")
    for name, content in contents(stored).items():
        few = range(0, len(content), 1 if len(content) < 16 else 23)
        for position in few:
            spoiled = bytearray(content)
            spoiled[position] ^= 1 << position % 8
            (stored / name).write_bytes(spoiled)
            found = damaged_files(stored)
            # A flipped bit of whitespace leaves the table as it was, so that it still holds.
            harmless = name == TABLE and content[position : position + 1].isspace()
            assert found == [name] or (harmless and not found), (name, position)
            (stored / name).write_bytes(content)
        assert damaged_files(stored) == []
        (stored / name).write_bytes(content[:-1] + bytes([content[-1] ^ 64]))
        assert_computed_again(recorded, expected, name)


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a file cut": ("weights", lambda path: (path / "weights").write_bytes(b"w")),
    "a file emptied": ("deep/log", lambda path: (path / "deep" / "log").write_bytes(b"")),
    "a file deleted": ("weights", lambda path: (path / "weights").unlink()),
    "a file added": ("extra", lambda path: (path / "extra").write_bytes(b"x")),
    "a folder deleted": ("deep/log", lambda path: shutil.rmtree(path / "deep")),
    "the key deleted": ("key.json", lambda path: (path / "key.json").unlink()),
    "the table deleted": (TABLE, lambda path: (path / TABLE).unlink()),
    "the table emptied": (TABLE, lambda path: (path / TABLE).write_bytes(b"")),
    "the table nested": (TABLE, lambda path: (path / TABLE).write_bytes(b"[" * 100_000)),
    "the table of no files": (TABLE, lambda path: (path / TABLE).write_text('{"files": []}')),
    "all deleted": (TABLE, lambda path: (shutil.rmtree(path), path.mkdir())),
    "a file instead": (TABLE, lambda path: (shutil.rmtree(path), path.write_text("x"))),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_result_is_reported_and_made_again(
    recorded: Recorded, name: str, damage: Callable[[Path], object]
) -> None:
    expected = contents(recorded.make().folder)
    damage(recorded.open().stored("distill", "key"))
    assert_computed_again(recorded, expected, name)


def test_the_stored_result_of_another_key_is_not_taken(recorded: Recorded) -> None:
    expected = contents(recorded.make().folder)
    recorded.make("another")
    stored = [recorded.open().stored("distill", key) for key in ("key", "another")]
    shutil.rmtree(stored[0])
    shutil.copytree(stored[1], stored[0])
    assert_computed_again(recorded, expected, TABLE)


def test_a_question_about_a_damaged_result_is_answered_as_by_making_it(recorded: Recorded) -> None:
    recorded.make()
    run = recorded.open()
    (run.stored("distill", "key") / "weights").write_bytes(b"other")
    assert not run.has("distill", "key")
    recorded.make()
    assert recorded.computed == 2
    assert run.has("distill", "key")


def test_a_stored_result_is_synced_before_it_has_its_name(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr("edgekd.system.files.fsync", lambda path: synced.append(str(path)))
    recorded.make()
    stored = recorded.open().stored("distill", "key")
    for name in ("weights", "deep/log", "deep", "key.json", TABLE):
        assert f"{stored}.partial/{name}" in synced
    assert str(stored.parent) in synced


def test_drafts_of_a_killed_process_are_not_part_of_a_result(recorded: Recorded) -> None:
    draft = recorded.open().scratch("distill", "key") / ".draft-killed"
    draft.mkdir()
    (draft / "half").write_text("x")
    assert sorted(contents(recorded.make().folder)) == ["deep/log", "weights"]


def test_two_runs_at_once_compute_a_result_once(recorded: Recorded) -> None:
    runs, results = [recorded.open(), recorded.open()], list[StoredResult]()
    began = threading.Event()

    def compute(folder: Path) -> None:
        began.set()
        time.sleep(1.0)
        recorded.compute(folder)

    def make(run: Run) -> None:
        results.append(run.make("distill", "", "key", compute))

    threads = [threading.Thread(target=make, args=(run,)) for run in runs]
    threads[0].start()
    assert began.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join(20)
    assert recorded.computed == 1
    assert [result.reused for result in results] == [False, True]
    assert contents(results[0].folder) == contents(results[1].folder)
    waiting = "waiting for another run that computes the same distill result"
    assert recorded.lines == [waiting]


HOLD = """
import os, sys, time
from pathlib import Path
from edgekd.system.lock import locked

with locked(Path(sys.argv[1]), lambda: None):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path, waited = tmp_path / "result.lock", list[bool]()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"

    def waiting() -> None:
        waited.append(True)
        holder.kill()

    with locked(path, waiting), locked(path, waiting):  # A thread may take its lock again.
        assert waited == [True]
    holder.wait()
    holder.stdout.close()


def test_runs_that_begin_at_once_have_their_own_folders(recorded: Recorded) -> None:
    runs: list[Run] = []
    threads = [threading.Thread(target=lambda: runs.append(recorded.open())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({run.folder for run in runs}) == 8


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_named_latest_but_is_no_link_is_never_deleted(
    recorded: Recorded, kind: str
) -> None:
    run = recorded.open()
    path = run.folder.parent / "latest"
    if kind == "folder":
        path.mkdir()
        (path / "thesis").write_text("years of work")
    else:
        path.write_text("years of work")
    before = contents(path.parent)
    for refused in (recorded.open, lambda: mark_latest(run)):
        with pytest.raises(RecipeError, match="latest run cannot be written") as caught:
            refused()
        assert_five_parts(str(caught.value))
        assert caught.value.faults[0].at == str(path)
        assert f"a {kind} that edgekd did not write" in caught.value.faults[0].got
    assert contents(path.parent) == before


def test_a_link_to_a_run_that_was_deleted_is_replaced(recorded: Recorded) -> None:
    first = recorded.open()
    mark_latest(first)
    shutil.rmtree(first.folder)
    second = recorded.open()
    mark_latest(second)
    assert (second.folder.parent / "latest").resolve() == second.folder.resolve()
