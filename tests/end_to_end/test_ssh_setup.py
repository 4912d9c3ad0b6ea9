"""Set up a board without a network from a folder of wheels; its jobs use the runtime."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import torch

import edgekd
from edgekd.devices import board_setup
from edgekd.devices.job import Job, run_job
from edgekd.errors import MissingPackageError, RecipeError, UnreachableError
from tests.support.models import TRAPS
from tests.support.project import assert_five_parts
from tests.support.skips import need_modules
from tests.support.sshd import Board, served

pytestmark = pytest.mark.converter

NEEDED = ("onnxruntime", "numpy", "flatbuffers", "packaging", "protobuf")


def quiet(line: str) -> None:
    """Ignores the progress of a setup."""
    assert line


def wheel(name: str, folder: Path) -> Path:
    """The wheel of an installed package, rebuilt from its files."""
    found = distribution(name)
    tags = [
        line.partition(": ")[2]
        for line in (found.read_text("WHEEL") or "").splitlines()
        if line.startswith("Tag: ")
    ]
    path = folder / f"{name.replace('-', '_')}-{found.version}-{tags[-1]}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in found.files or []:
            path = Path(str(found.locate_file(file)))
            if not str(file).startswith("..") and path.is_file() and path.suffix != ".pyc":
                archive.write(path, str(file))
    return path


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    home = tmp_path / "home"
    home.mkdir()
    # As on a board without a network.
    env = f"HOME={home} PIP_NO_INDEX=1 PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS="
    with served(tmp_path, f"SetEnv {env}") as found:
        monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
        yield found


def test_a_board_is_set_up_from_wheels_and_jobs_use_it(
    board: Board, tmp_path: Path, edgekd_cli: Any
) -> None:
    need_modules("onnx", "onnxscript", "onnxruntime")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in NEEDED:
        wheel(name, wheels)
    args = ["devices", "setup", board.url, "--target", "raspberry-pi-5-onnx"]
    result = edgekd_cli(*args, "--wheels", wheels)
    assert result.code == 0, result.err
    assert f"Ready: numpy {distribution('numpy').version}, onnxruntime" in result.err
    trap = TRAPS["signal"]
    generator = torch.Generator().manual_seed(0)
    network = edgekd.load_network(trap.build(), example=trap.draw(1, generator))
    artifact = edgekd.export(network, format="onnx", out=tmp_path / "build")
    job = Job("run", "onnxruntime", {"it": artifact.path}, 1, {"it": 1})
    report = run_job(board.bare, job)
    assert report.results["it"]["failure"] is None
    venv = board.folder / "home" / ".cache" / "edgekd" / "venv"
    assert (venv / "pyvenv.cfg").exists()
    again = edgekd_cli(*args)
    assert again.code == 0, "there is nothing to install, so nothing that a network is needed for"
    assert "Runtime:" not in again.err
    assert board.clean


def test_missing_requirements_of_a_setup_are_reported(board: Board, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    with pytest.raises(RecipeError, match="no such folder") as stop:
        board_setup.setup(board.url, "onnxruntime", quiet, wheels=wheels)
    assert_five_parts(str(stop.value))
    wheels.mkdir()
    wheel("packaging", wheels)
    with pytest.raises(MissingPackageError, match="No matching distribution") as missing:
        board_setup.setup(board.url, "onnxruntime", quiet, wheels=wheels)
    assert_five_parts(str(missing.value))
    assert board.clean
    with pytest.raises(UnreachableError, match="no /no/python") as none:
        board_setup.setup(board.with_python("/no/python"), "onnxruntime", quiet)
    assert_five_parts(str(none.value))


def test_a_python_that_is_too_old_or_has_no_venv_is_reported(board: Board) -> None:
    old = board.program("old", 'echo \'[[3, 6], "aarch64", "Linux"]\'')
    with pytest.raises(UnreachableError, match=r"Python 3\.6"):
        board_setup.setup(board.with_python(old), "onnxruntime", quiet)
    bare = board.program(
        "bare",
        f'case "$2" in venv) echo "ensurepip is not available"; exit 1;; esac\n'
        f'exec {sys.executable} "$@"',
    )
    with pytest.raises(MissingPackageError, match="ensurepip is not available") as stop:
        board_setup.setup(board.with_python(bare), "onnxruntime", quiet)
    assert_five_parts(str(stop.value))
    assert "apt-get install python3-venv" in str(stop.value)


def test_a_board_is_set_up_for_a_target(edgekd_cli: Any) -> None:
    result = edgekd_cli("devices", "setup", "ssh://nobody@localhost")
    assert result.code == 2
    assert_five_parts(result.err)
    assert "--target raspberry-pi-5-litert" in result.err
    result = edgekd_cli("devices", "setup", "ftp://nobody@localhost")
    assert result.code == 2
    assert_five_parts(result.err)
