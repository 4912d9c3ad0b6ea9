from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekd.system.files import digest, path_digest, write_json, written_atomically
from edgekd.system.progress import no_progress
from edgekd.system.store import Run, mark_latest, open_run, other_maker
from edgekd.system.version import VERSION


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
