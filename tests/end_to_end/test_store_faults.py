"""Faults of the disk, of the store and of the report's renderer, in whole runs."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from edgekd.formats import FORMATS
from edgekd.system.process import Completed
from tests.support.project import Project, assert_five_parts
from tests.support.skips import need_modules


@pytest.fixture(autouse=True)
def onnx() -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)


REPRODUCIBLE = ("weights.safetensors", "model.onnx", "decisions.npz", "agreement.json")
"""The results of a run that are the same bytes each time."""


def results(run: Path) -> dict[str, str]:
    """The digests of what a run computes, by file; timings and dates are left out."""
    paths = sorted(path for name in REPRODUCIBLE for path in run.rglob(name))
    return {
        path.relative_to(run).as_posix(): sha256(path.read_bytes()).hexdigest() for path in paths
    }


def latest(project: Project, out: Path | None = None) -> Path:
    return ((out or project.folder / "runs") / "tiny" / "latest").resolve()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES: tuple[Callable[[Path], Any], ...] = (
    _flip,
    lambda path: path.write_bytes(path.read_bytes()[:-7]),
    Path.unlink,
)
STORED = {
    "train": "weights.safetensors",
    "distill": "weights.safetensors",
    "export": "model.onnx",
    "verify": "decisions.npz",
    "benchmark": "fp32.json",
}


def test_damaged_results_are_made_again_and_the_run_ends_as_from_scratch(
    project: Project, edgekd_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    assert edgekd_cli("run", project.recipe).code == 0
    expected = results(latest(project))
    assert len(expected) >= 5
    store = project.folder / "runs" / "tiny" / "store"
    for first in range(2):
        for number, (stage, name) in enumerate(STORED.items()):
            (path,) = store.glob(f"{stage}/*/{name}")
            DAMAGES[(first + number) % len(DAMAGES)](path)
        shard = next(store.glob("teacher_outputs/*/*/view-0001/*.npy"))
        DAMAGES[first](shard)
        result = edgekd_cli("run", project.recipe)
        assert result.code == 0, result.err
        for stage, name in STORED.items():
            line = f"the stored result of {stage} does not match its digest ({name}); it is"
            assert result.err.count(line) == 1, result.err
        assert "(view-0001/00000.npy); they are computed again" in result.err
        assert results(latest(project)) == expected
    again = edgekd_cli("run", project.recipe)
    assert "does not match" not in again.err
    document = json.loads((latest(project) / "result.json").read_text())
    assert {entry.split("/")[0] for entry in document["reused"]} == set(STORED)


def test_two_runs_at_once_end_with_the_same_result(project: Project) -> None:
    argv = [sys.executable, "-m", "edgekd.cli", "run", str(project.recipe)]
    runs = [
        subprocess.Popen(
            argv, cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    ended = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], ended
    folders = sorted((project.folder / "runs" / "tiny").glob("2*"))
    assert len(folders) == 2
    assert results(folders[0]) == results(folders[1])
    assert latest(project) in [folder.resolve() for folder in folders]
    reused = [json.loads((run / "result.json").read_text())["reused"] for run in folders]
    assert sorted("distill" in entries for entries in reused) == [False, True]


@pytest.mark.parametrize("writes", [4, 30])
def test_a_disk_that_is_full_at_a_write_ends_with_exit_code_2_and_keeps_what_is_finished(
    project: Project, edgekd_cli: Any, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """The system may report a full disk as late as when a written file is synced."""
    monkeypatch.chdir(project.folder)
    fsync, left = os.fsync, [writes]

    def full(file: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        result = edgekd_cli("run", project.recipe)
    assert result.code == 2, result.err
    assert_five_parts(result.err)
    assert "No space left on device" in result.err
    assert f"  at:       {project.folder}" in result.err or "  at:       runs" in result.err
    assert "Traceback" not in result.err
    again = edgekd_cli("run", project.recipe)
    assert again.code == 0
    assert "does not match" not in again.err
    if writes == 30:
        assert "train" in json.loads((latest(project) / "result.json").read_text())["reused"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 KiB, which `mount -o remount` changes; only root can have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no permission to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_run_on_a_disk_that_grows_goes_on_where_the_full_disk_stopped_it(
    project: Project, edgekd_cli: Any, small_disk: Path
) -> None:
    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(small_disk)], check=True)

    for size_kib in (16, 132, 212):
        remount(f"size={size_kib}k")
        result = edgekd_cli("run", project.recipe, "--out", small_disk)
        assert result.code == 2, (size_kib, result.err)
        assert_five_parts(result.err)
        assert f"  at:       {small_disk}" in result.err
        assert "Traceback" not in result.err
    remount("size=8m")
    assert edgekd_cli("run", project.recipe, "--out", small_disk).code == 0
    document = json.loads((latest(project, small_disk) / "result.json").read_text())
    assert {"train", "distill"} <= set(document["reused"])
    remount("ro")
    result = edgekd_cli("run", project.recipe, "--out", small_disk)
    assert result.code == 2
    assert "Read-only file system" in result.err
    assert_five_parts(result.err)


def _a_file(folder: Path) -> Path:
    (folder / "out").write_text("a file")
    return folder / "out"


def _below_a_file(folder: Path) -> Path:
    return _a_file(folder) / "deep"


def _a_file_of_the_run_s_name(folder: Path) -> Path:
    (folder / "out").mkdir()
    (folder / "out" / "tiny").write_text("a file")
    return folder / "out"


def _too_long(folder: Path) -> Path:
    return folder / ("n" * 300)


def _a_real_folder_latest(folder: Path) -> Path:
    (folder / "out" / "tiny" / "latest").mkdir(parents=True)
    (folder / "out" / "tiny" / "latest" / "thesis").write_text("years of work")
    return folder / "out"


@pytest.mark.parametrize(
    "out", [_a_file, _below_a_file, _a_file_of_the_run_s_name, _too_long, _a_real_folder_latest]
)
def test_an_out_that_cannot_be_written_ends_with_exit_code_2(
    project: Project, edgekd_cli: Any, tmp_path: Path, out: Callable[[Path], Path]
) -> None:
    path = out(tmp_path)
    before = {entry: entry.read_bytes() for entry in tmp_path.rglob("*") if entry.is_file()}
    result = edgekd_cli("run", project.recipe, "--out", path)
    assert result.code == 2, result.err
    assert_five_parts(result.err)
    assert f"  at:       {path}" in result.err
    assert "Traceback" not in result.err
    after = {entry: entry.read_bytes() for entry in tmp_path.rglob("*") if entry.is_file()}
    assert {entry: after[entry] for entry in before} == before


def test_a_report_never_replaces_a_folder(
    project: Project, edgekd_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_modules("vl_convert")
    monkeypatch.chdir(project.folder)
    _abort_the_renderer(project.folder / "first", monkeypatch)
    result = edgekd_cli("run", project.recipe)
    assert_drawn_later(project, result)
    monkeypatch.undo()
    monkeypatch.chdir(project.folder)
    (project.folder / "site").mkdir()
    (project.folder / "site" / "index.html").write_text("mine")
    refused = edgekd_cli("report", latest(project), "--out", "site")
    assert refused.code == 2
    assert_five_parts(refused.err)
    assert (project.folder / "site" / "index.html").read_text() == "mine"


def _abort_the_renderer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renderer that ends its process, as a browser engine without memory does."""
    folder.mkdir()
    (folder / "vl_convert.py").write_text("import os\nos.abort()\n")
    found = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{found}" if found else str(folder))


def assert_drawn_later(project: Project, result: Any) -> None:
    """Assert that a run without a report has all results and says how to draw the report."""
    assert result.code == 0, result.err
    run = latest(project)
    for name in ("result.json", "junit.xml", "summary.md"):
        assert (run / name).is_file(), name
    assert not (run / "report.html").exists()
    (line,) = [line for line in result.err.splitlines() if "the report is not drawn" in line]
    command = line.partition("Draw it again with: edgekd ")[2].split()
    assert command[0] == "report"
    assert Path(command[1]).resolve() == run
    assert "every required target passed" in result.out
    assert "report for a browser" not in result.out


def _raises(error: BaseException) -> Callable[..., Completed]:
    def run_process(*_: object, **__: object) -> Completed:
        raise error

    return run_process


DRAWING: dict[str, Callable[..., Completed]] = {
    "too few file handles": _raises(OSError(errno.EMFILE, "Too many open files")),
    "little memory": _raises(MemoryError()),
    "an unexpected error": _raises(RuntimeError("no such font")),
    "a crash": lambda *_, **__: Completed(-11, b"", "Segmentation fault"),
    "too slow": lambda *_, **__: Completed(None, b"", ""),
}


def test_drawing_the_report_cannot_fail_a_run(
    project: Project, edgekd_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_modules("vl_convert")
    monkeypatch.chdir(project.folder)
    for failing in DRAWING.values():
        monkeypatch.setattr("edgekd.pipeline.run.run_process", failing)
        assert_drawn_later(project, edgekd_cli("run", project.recipe))
    assert edgekd_cli("report", latest(project)).code == 0
    assert (latest(project) / "report.html").is_file()
