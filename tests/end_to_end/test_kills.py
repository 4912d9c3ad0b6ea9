"""A run that is killed in any stage leaves no process and no temporary file behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import Project, tiny_recipe
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

MARK = "EDGEKD_TEST_MARK"
CHILDREN = {
    "export": "edgekd.conversion.worker",
    "benchmark": "agent.py",
    "train": "edgekd.pipeline.training_worker",
}
"""What runs in each stage, on its command line."""
STAGES = [(stage, stage) for stage in CHILDREN]


@dataclass(frozen=True)
class StartedRun:
    """A run in a process of its own, and the mark in the environment of all that it starts."""

    process: subprocess.Popen[str]
    mark: str
    temporary: Path

    def processes(self) -> list[str]:
        """The command lines of the processes with the mark."""
        lines = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (folder / "environ").read_bytes():
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    lines.append(b" ".join(words).decode(errors="replace"))
        return lines

    def wait_for(self, child: str) -> None:
        """Wait until a process with `child` on its command line runs."""
        until = time.monotonic() + 120
        while not any(child in line for line in self.processes()):
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < until, self.processes()
            time.sleep(0.01)

    def wait_until_gone(self) -> None:
        """Wait until no process has the mark and no file is left, five seconds at most."""
        until = time.monotonic() + 5
        while time.monotonic() < until and (self.processes() or self.left()):
            time.sleep(0.02)
        assert self.processes() == []
        assert self.left() == []

    def left(self) -> list[Path]:
        """The temporary folders that are left."""
        return list(self.temporary.glob("edgekd*"))


@pytest.fixture
def started_run(
    request: pytest.FixtureRequest, project: Project, tmp_path: Path
) -> Iterator[StartedRun]:
    """A run that gets to the stage of the parameter."""
    need_modules("onnxruntime")
    document: dict[str, Any] = tiny_recipe()
    document["export"]["processes"] = 1
    document["benchmark"]["protocol"] = "thorough"
    if request.param == "train":
        document["distill"]["devices"] = 2
        document["distill"]["epochs"] = 500
    project.write(document)
    mark = f"{MARK}-{os.getpid()}-{time.monotonic_ns()}"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, MARK: mark, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", "edgekd", "run", str(project.recipe), "--out", "runs"]
    process = subprocess.Popen(
        argv,
        cwd=project.folder,
        env=environment,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        yield StartedRun(process, mark, temporary)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("stage", "started_run"), STAGES, indirect=["started_run"])
def test_nothing_of_a_killed_run_is_left(stage: str, started_run: StartedRun) -> None:
    started_run.wait_for(CHILDREN[stage])
    started_run.process.kill()
    started_run.wait_until_gone()


@pytest.mark.parametrize(
    ("number", "stage", "started_run"),
    [(signal.SIGTERM, "train", "train"), (signal.SIGHUP, "export", "export")],
    indirect=["started_run"],
)
def test_a_signal_ends_a_run_as_ctrl_c_does(
    number: signal.Signals, stage: str, started_run: StartedRun
) -> None:
    started_run.wait_for(CHILDREN[stage])
    started_run.process.send_signal(number)
    _, text = started_run.process.communicate(timeout=60)
    assert started_run.process.returncode == 128 + number
    assert text.endswith("stopped; run the same command again to continue\n")
    assert "Traceback" not in text
    started_run.wait_until_gone()
