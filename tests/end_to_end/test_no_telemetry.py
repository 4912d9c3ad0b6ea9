"""A run reports to nobody: no host is looked up, and no library leaves a file of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.system.telemetry import SENDERS, SWITCHES
from tests.support.project import Project, tiny_recipe
from tests.support.skips import need_modules, need_program

pytestmark = pytest.mark.converter

SOURCE = Path(__file__).parents[1] / "support" / "lookups.c"
LOCAL = ("127.", "::1", "localhost", "0.0.0.0")
LOGGERS = """
import edgekd, mlflow, transformers, huggingface_hub, onnxruntime, openvino, nncf, coremltools
"""


@pytest.fixture
def watched(tmp_path: Path) -> dict[str, str]:
    """An environment that logs look-ups, with an empty home and an empty temporary folder."""
    library = tmp_path / "lookups.so"
    argv = [need_program("gcc"), "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(argv, check=True)
    environment = {key: value for key, value in os.environ.items() if key not in SWITCHES}
    for name in ("CI", "DO_NOT_TRACK", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        environment.pop(name, None)  # Some libraries report nothing where a CI runs.
    for name in ("HOME", "TMPDIR"):
        (tmp_path / name).mkdir()
        environment[name] = str(tmp_path / name)
    package = Path(__file__).parents[2]
    environment |= {
        "LD_PRELOAD": str(library),
        "LOOKUPS": str(tmp_path / "lookups.txt"),
        "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")]),
    }
    return environment


def looked_up(environment: dict[str, str]) -> list[str]:
    path = Path(environment["LOOKUPS"])
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if not line.partition(" ")[2].startswith(LOCAL)]


def left(environment: dict[str, str]) -> list[str]:
    """Files in the home and the temporary folder, but for caches: locks, matplotlib's fonts."""
    paths = [
        path.relative_to(environment[name]).as_posix()
        for name in ("HOME", "TMPDIR")
        for path in Path(environment[name]).rglob("*")
        if path.is_file()
    ]
    return [path for path in paths if not path.startswith(".cache/")]


def test_the_watch_sees_what_it_is_for(watched: dict[str, str]) -> None:
    code = "import socket\ntry: socket.getaddrinfo('reports.invalid', 443)\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", code], env=watched, check=True)
    assert looked_up(watched) == ["lookup reports.invalid"]


def test_a_run_in_every_format_looks_nothing_up_and_leaves_nothing(
    project: Project, watched: dict[str, str]
) -> None:
    need_modules("onnxruntime", "openvino", "nncf", "litert_torch", "coremltools", "ncnn")
    recipe = tiny_recipe()
    recipe["quantize"] = {"schemes": ["fp32", "int8"], "search": "first"}
    names = [
        "x86-cpu-onnx",
        "x86-cpu-openvino",
        "x86-cpu-litert",
        "x86-cpu-ncnn",
        "iphone-15-coreml",
    ]
    recipe["targets"] = [{"name": name, "required": False} for name in names]
    project.write(recipe)
    argv = [sys.executable, "-m", "edgekd", "run", str(project.recipe), "--out", "runs"]
    done = subprocess.run(
        argv, env=watched, cwd=project.folder, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert looked_up(watched) == []
    assert left(watched) == []


def test_every_library_of_the_tested_set_is_imported_in_silence(watched: dict[str, str]) -> None:
    need_modules("mlflow", "transformers", "onnxruntime", "openvino", "nncf", "coremltools")
    subprocess.run([sys.executable, "-c", LOGGERS], env=watched, check=True, timeout=300)
    assert looked_up(watched) == []
    assert left(watched) == []


def test_what_the_user_has_set_stays(watched: dict[str, str]) -> None:
    code = "import edgekd, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**watched, "ORT_DISABLE_TELEMETRY": "0"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "0"


def test_a_sender_that_is_loaded_already_is_left_to_its_user() -> None:
    code = (
        f"import sys; sys.modules[{SENDERS[0]!r}] = sys; import edgekd; "
        f"assert sys.modules[{SENDERS[0]!r}] is sys"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
