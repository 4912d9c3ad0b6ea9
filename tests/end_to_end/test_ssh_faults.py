"""Failures of a board: each ends in time, has its own outcome, and leaves the board clean."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import edgekd
from edgekd.devices.job import Job, run_job
from edgekd.devices.transport import openssh, reconnect
from edgekd.errors import ConversionError, RecipeError, UnreachableError
from edgekd.recipe.benchmark import THOROUGH
from tests.support.models import TRAPS
from tests.support.project import assert_five_parts
from tests.support.skips import need_modules, need_program, need_that
from tests.support.sshd import Board, gone, served

pytestmark = pytest.mark.converter

SHORT = replace(THOROUGH, runs=40, seconds=0.0, warm_up_s=0.0, warm_up_limit_s=0.05)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    with served(tmp_path, f"SetEnv PATH={tmp_path}/there:{os.environ['PATH']}") as found:
        monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr(reconnect, "WAIT_S", 0.1)
        (tmp_path / "there").mkdir()
        yield found


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> edgekd.Artifact:
    need_modules("onnx", "onnxscript", "onnxruntime")
    trap = TRAPS["signal"]
    example = trap.draw(1, torch.Generator().manual_seed(0))
    network = edgekd.load_network(trap.build(), example=example)
    return edgekd.export(network, format="onnx", out=tmp_path_factory.mktemp("build"))


def job(artifact: edgekd.Artifact, **changed: Any) -> Job:
    inputs = TRAPS["signal"].draw(8, torch.Generator().manual_seed(1))
    arrays = {name: value.numpy() for name, value in inputs.items()}
    product = Job("run", "onnxruntime", {"it": artifact.path}, 1, {"it": 1}, inputs=arrays)
    return replace(product, **{"timeout_s": 60.0, **changed})


def when(condition: Callable[[], bool], then: Callable[[], None]) -> threading.Thread:
    """Call `then` in a thread as soon as `condition` is true."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_job_uses_one_connection_and_works_with_several(
    board: Board, artifact: edgekd.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = run_job(board.url, job(artifact)).outputs["it"]
    assert board.connections == 1
    monkeypatch.setattr(
        openssh, "SOCKET_BYTES", 0
    )  # As on systems where the client cannot share a connection.
    theirs = run_job(board.url, job(artifact)).outputs["it"]
    assert board.connections > 2
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_a_lost_connection_repeats_only_the_process_it_hit(
    board: Board, artifact: edgekd.Artifact
) -> None:
    runs = board.folder / "runs"
    # One start is the supervisor's, the other is the agent's.
    python = board.program(
        "python", f'case "$1" in agent.py) echo $$ >> {runs};; esac\nexec {sys.executable} "$@"'
    )
    cutter = when(lambda: lines(runs) == 3, board.cut)
    measured = edgekd.benchmark(artifact, device=board.with_python(python), protocol=SHORT)
    cutter.join()
    # One process alone, three of the protocol, and one of these repeated after the cut.
    assert lines(runs) == 1 + 3 + 1
    assert len(measured.samples_ns) == 3
    assert all(len(process) >= 40 for process in measured.samples_ns)
    assert all(gone(int(number)) for number in runs.read_text().split())
    assert board.clean


def test_a_connection_that_is_always_cut_ends_as_unreachable(
    board: Board, artifact: edgekd.Artifact
) -> None:
    numbers = board.folder / "numbers"
    python = board.program(
        "python",
        f'case "$1" in agent.py) echo $$ >> {numbers}; exec sleep 100;; esac\n'
        f'exec {sys.executable} "$@"',
    )
    cutters = [when(lambda n=n: lines(numbers) == n, board.cut) for n in (1, 2, 3)]
    with pytest.raises(UnreachableError, match=r"\(3 times\)") as stop:
        run_job(board.with_python(python), job(artifact))
    assert_five_parts(str(stop.value))
    for cutter in cutters:
        cutter.join()
    assert all(gone(int(number)) for number in numbers.read_text().split())
    assert board.clean


def hanging(board: Board, number: Path) -> str:
    """The URL of a Python whose agent hangs, with a child that hangs too."""
    text = f"sleep 300 & echo $! > {number}.child; echo $$ > {number}; exec sleep 300"
    return board.with_python(
        board.program(
            "hanging",
            f'case "$1" in agent.py) {text};; esac\nexec {sys.executable} "$@"',
        )
    )


def test_a_hang_ends_in_time_and_leaves_nothing_running(
    board: Board, artifact: edgekd.Artifact
) -> None:
    number = board.folder / "number"
    with pytest.raises(ConversionError, match="after 2 s") as stop:
        run_job(hanging(board, number), job(artifact, timeout_s=2.0))
    assert_five_parts(str(stop.value))
    assert gone(int(number.read_text()))
    assert gone(int(Path(f"{number}.child").read_text()))
    assert board.clean


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_the_end_of_the_host_ends_the_job_on_the_board(
    board: Board, artifact: edgekd.Artifact, how: signal.Signals
) -> None:
    number = board.folder / "number"
    program = f"""
        from pathlib import Path
        from edgekd.devices.job import Job, run_job
        path = Path({str(artifact.path)!r})
        run_job({hanging(board, number)!r}, Job("run", "onnxruntime", {{"it": path}}, 1))
    """
    host = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.DEVNULL
    )
    when(number.exists, lambda: host.send_signal(how)).join()
    host.wait(timeout=60)
    assert gone(int(number.read_text()))
    assert gone(int(Path(f"{number}.child").read_text()))
    assert board.clean


@pytest.fixture
def small(board: Board) -> Iterator[Path]:
    """A folder on the board with 256 kB of free space."""
    path = board.folder / "small"
    path.mkdir()
    mount = need_program("mount", "/sbin")
    artifact = subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", path], check=False)
    need_that(artifact.returncode == 0, "this user may not mount a small disk")
    yield path
    subprocess.run([need_program("umount", "/sbin"), str(path)], check=True)


@pytest.mark.parametrize("where", ["files", "outputs"])
def test_a_full_disk_is_reported(
    board: Board, artifact: edgekd.Artifact, small: Path, where: str
) -> None:
    fill = f"cat /dev/zero > {small}/filler 2> {board.folder}/ignored"
    if where == "files":
        (small / "filler").write_bytes(bytes(240_000))
        python = sys.executable
    else:
        text = f'case "$1" in agent.py) {fill};; esac\nexec {sys.executable} "$@"'
        python = str(board.program("python", text))
    with pytest.raises(UnreachableError, match="No space left on device") as stop:
        run_job(f"ssh://127.0.0.1:{board.port}?python={python}&folder={small}", job(artifact))
    assert_five_parts(str(stop.value))
    assert "No space left on the device" in str(stop.value)
    assert [path.name for path in small.iterdir()] == ["filler"]


def test_a_file_damaged_in_transit_is_noticed(board: Board, artifact: edgekd.Artifact) -> None:
    tar = need_program("tar")
    board.program("there/tar", f'{tar} "$@" && echo >> "$4/it/model.onnx"')
    differs = r"it/model\.onnx differs from the file that was sent"
    with pytest.raises(UnreachableError, match=differs) as stop:
        run_job(board.url, job(artifact))
    assert_five_parts(str(stop.value))


def test_a_report_damaged_in_transit_is_noticed(board: Board, artifact: edgekd.Artifact) -> None:
    tar = need_program("tar")
    spoil = 'case "$1" in -cf) echo >> report.json;; esac'
    board.program("there/tar", f'{spoil}\nexec {tar} "$@"')
    with pytest.raises(UnreachableError, match=r"report\.json differs here") as stop:
        run_job(board.url, job(artifact))
    assert_five_parts(str(stop.value))


def test_a_host_key_that_changed_is_never_accepted(board: Board, artifact: edgekd.Artifact) -> None:
    other = (board.folder / "key.pub").read_text().split()[1]
    (board.folder / "known").write_text(f"[127.0.0.1]:{board.port} ssh-ed25519 {other}\n")
    with pytest.raises(UnreachableError, match="Host key verification failed") as stop:
        run_job(board.url, job(artifact))
    assert_five_parts(str(stop.value))
    assert board.connections == 0


def test_a_missing_runtime_and_a_corrupted_artifact_are_outcomes(
    board: Board, artifact: edgekd.Artifact
) -> None:
    import numpy

    site = board.folder / "site"
    site.mkdir()
    for path in Path(numpy.__file__).parents[1].glob("numpy*"):
        (site / path.name).symlink_to(path)
    bare = board.program("bare", f'PYTHONPATH={site} exec {sys.executable} -S "$@"')
    failure = run_job(board.with_python(bare), job(artifact)).results["it"]["failure"]
    assert failure["outcome"] == "unavailable"
    assert "onnxruntime is not installed there" in failure["detail"]
    torn = board.folder / artifact.path.name
    torn.write_bytes(artifact.path.read_bytes()[:100])
    failure = run_job(board.url, job(artifact, artifacts={"it": torn})).results["it"]["failure"]
    assert failure["outcome"] == "load-failed"


def test_an_unknown_option_is_refused(board: Board, artifact: edgekd.Artifact) -> None:
    with pytest.raises(RecipeError, match=r"\?python=PATH there") as stop:
        run_job(f"ssh://127.0.0.1:{board.port}?pyhton=python3", job(artifact))
    assert_five_parts(str(stop.value))


def test_a_provider_without_nodes_is_a_fallback_and_an_unknown_one_is_refused(
    board: Board, artifact: edgekd.Artifact
) -> None:
    failure = run_job(f"{board.url}&providers=tensorrt,cuda", job(artifact)).results["it"][
        "failure"
    ]
    assert failure["outcome"] == "fell-back"
    assert "CUDAExecutionProvider" in failure["detail"]
    with pytest.raises(RecipeError, match="providers=npu") as stop:
        run_job(f"{board.url}&providers=npu", job(artifact))
    assert_five_parts(str(stop.value))
