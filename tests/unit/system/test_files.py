"""Files that are written: durable, complete or absent, and errors that name their path."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from edgekd.errors import Fault, RecipeError
from edgekd.system import files
from edgekd.system.disk_errors import EXPLAINED, disk_errors_explained, disk_errors_name
from edgekd.system.files import make_folders, publish, write_text, written_atomically
from tests.support.project import assert_five_parts


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The syncs and renames in order, each with the name of its file."""
    found: list[tuple[str, str]] = []
    replace = Path.replace

    def synced(path: Path) -> None:
        found.append(("fsync", path.name))

    def renamed(path: Path, target: Path) -> Path:
        found.append(("rename", Path(target).name))
        return replace(path, target)

    monkeypatch.setattr(files, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    return found


def test_a_file_is_synced_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, events: list[tuple[str, str]]
) -> None:
    write_text(tmp_path / "result.json", "{}")
    assert events == [
        ("fsync", "result.json"),
        ("rename", "result.json"),
        ("fsync", tmp_path.name),
    ]


def test_every_file_and_folder_of_a_folder_is_synced_before_it_has_its_name(
    tmp_path: Path, events: list[tuple[str, str]]
) -> None:
    with written_atomically(tmp_path / "bundle") as draft:
        (draft / "deep").mkdir(parents=True)
        for path in (draft / "a", draft / "deep" / "b"):
            path.write_text("x")
    before = events[: events.index(("rename", "bundle"))]
    assert sorted(before) == [("fsync", name) for name in ("a", "b", "bundle", "deep")]
    assert events[-1] == ("fsync", tmp_path.name)


def test_the_parents_of_new_folders_are_synced(
    tmp_path: Path, events: list[tuple[str, str]]
) -> None:
    make_folders(tmp_path / "runs" / "name")
    assert sorted(events) == sorted([("fsync", "runs"), ("fsync", tmp_path.name)])
    make_folders(tmp_path / "runs" / "name")
    assert len(events) == 2


def test_a_write_really_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(file), fsync(file)))
    write_text(tmp_path / "result.json", "{}")
    assert len(synced) == 2


def test_a_file_never_replaces_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(RecipeError) as caught, disk_errors_explained():
        write_text(tmp_path / "out", "a report")
    assert caught.value.faults[0].at == str(tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_folder_replaces_a_folder_and_stays_if_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    replace = Path.replace

    def failing(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(errno.EIO, "a broken disk")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="a broken disk"):
        publish(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "file").read_text() == "old"
    monkeypatch.undo()
    publish(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "old"]


@pytest.mark.parametrize("name", ["n" * 255, "\u00fc" * 127], ids=["ascii", "umlauts"])
def test_the_longest_names_are_written(name: str, tmp_path: Path) -> None:
    write_text(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def _too_long(folder: Path) -> Path:
    return folder / ("n" * 256)


def _file_in_the_way(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file" / "result.json"


def _file_instead_of_a_folder(folder: Path) -> Path:
    return _file_in_the_way(folder).parent / "deep" / "result.json"


@pytest.mark.parametrize("path", [_too_long, _file_in_the_way, _file_instead_of_a_folder])
def test_a_path_that_cannot_be_written_is_an_error_in_five_parts(
    path: Callable[[Path], Path], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught, disk_errors_explained():
        write_text(path(tmp_path), "x")
    assert_five_parts(str(caught.value))
    assert caught.value.exit_code == 2
    assert str(tmp_path) in caught.value.faults[0].at


@pytest.mark.parametrize("number", EXPLAINED, ids=errno.errorcode.get)
def test_an_error_of_a_write_names_its_file(number: int, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"

    def fail() -> None:
        with written_atomically(path) as draft:
            draft.write_text("half")
            raise OSError(number, os.strerror(number))  # As a write does: no file name.

    with pytest.raises(RecipeError) as caught, disk_errors_explained():
        fail()
    assert caught.value.faults[0].at == str(path)
    assert caught.value.faults[0].got == os.strerror(number)
    assert list(tmp_path.iterdir()) == []


FULL = {
    "safetensors": SafetensorError("I/O error: No space left on device (os error 28)"),
    "numpy": OSError("25000 requested and 1024 written"),
    "copytree": shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]),
}


@pytest.mark.parametrize("error", FULL.values(), ids=FULL)
def test_a_full_disk_is_recognized_in_the_errors_of_libraries(error: Exception) -> None:
    with (
        pytest.raises(RecipeError) as caught,
        disk_errors_explained(),
        disk_errors_name(Path("weights")),
    ):
        raise error
    assert caught.value.faults[0].at == "weights"
    assert caught.value.faults[0].expected == "free space on the disk"


OTHERS = {
    "a missing file": FileNotFoundError(errno.ENOENT, "No such file", "x"),
    "a value": ValueError("no"),
    "an error of edgekd": RecipeError(
        Fault(what="(os error 28)", at="a", got="b", expected="c", fix="d")
    ),
}


@pytest.mark.parametrize("error", OTHERS.values(), ids=OTHERS)
def test_other_errors_stay_as_they_are(error: Any) -> None:
    with (
        pytest.raises(type(error)) as caught,
        disk_errors_explained(),
        disk_errors_name(Path("weights")),
    ):
        raise error
    assert caught.value is error
