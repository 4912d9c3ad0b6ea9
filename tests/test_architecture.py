"""The house keeps its shape: ranks, heavy imports, sizes, forbidden words."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgekd
from edgekd.bundles import BUNDLES
from edgekd.devices import DEVICES
from edgekd.formats import FORMATS
from edgekd.losses import LOSSES
from edgekd.pipeline.stages import STAGES

PACKAGE = Path(edgekd.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "numpy", "onnx", "openvino", "tensorflow", "ai_edge_litert", "litert_torch",
         "coremltools", "pydantic", "rich")  # fmt: skip

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("system", "losses", "data"),
    ("artifacts",),
    ("recipe", "network"),
    ("formats", "quantization", "tasks", "evidence"),
    ("devices", "training", "pruning", "calibration", "report"),
    ("conversion", "verification", "benchmarking", "distillation", "bundles"),
    ("pipeline.candidates",),
    ("pipeline.stages",),
    ("pipeline",),
    ("cli",),
)
"""The rooms, from the ground up; pipeline is one floor whose own parts lie in this order."""

FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
STATE = "edgekd.pipeline.candidates.state"


def module(path: Path) -> str:
    """The dotted name of the module at `path`, without the package's own."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def room(name: str) -> str:
    """The room that the module `name` lies in."""
    parts = name.split(".")
    nested = ".".join(parts[:2])
    return nested if nested in FLOOR else parts[0]


MODULES = {module(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """The modules of edgekd that `path` imports, in functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "edgekd":
            module = (node.module or "").removeprefix("edgekd").removeprefix(".")
            for name in node.names:
                submodule = f"{module}.{name.name}".removeprefix(".")
                found.add(submodule if submodule in MODULES else module)
        elif isinstance(node, ast.Import):
            found |= {
                name.name.removeprefix("edgekd.")
                for name in node.names
                if name.name.startswith("edgekd.")
            }
    return found - {""}


@pytest.mark.parametrize("name", MODULES)
def test_a_file_imports_only_from_below_or_from_its_own_room(name: str) -> None:
    if name in ("__init__", "__main__"):
        return
    ours = room(name)
    for imported in imports(MODULES[name]):
        theirs = room(imported)
        if theirs != ours:
            assert FLOOR[theirs] < FLOOR[ours], f"{name} imports {imported}, which is above it"


def test_no_files_import_each_other_in_a_circle() -> None:
    """A table of modules is read by what lies below it: `formats` by its own packages."""
    graph = {
        name: {each for each in imports(path) if each != name}
        for name, path in MODULES.items()
        if path.name != "__init__.py"
    }
    for _ in range(len(graph)):
        free = [name for name, below in graph.items() if not below & graph.keys()]
        for name in free:
            del graph[name]
    assert not graph, sorted(graph)


def test_few_files_lie_beside_the_rooms() -> None:
    beside = {path.name for path in PACKAGE.glob("*.py")}
    assert beside == {"__init__.py", "__main__.py", "data.py", "errors.py"}


def test_every_room_says_what_it_holds() -> None:
    for folder in {path.parent for path in FILES}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


def test_only_the_pipeline_takes_the_pipelines_state() -> None:
    for name, path in MODULES.items():
        if room(name).split(".")[0] not in ("pipeline", "cli"):
            assert STATE.removeprefix("edgekd.") not in imports(path), name


def test_no_room_imports_a_private_name_of_another() -> None:
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edgekd."):
                theirs = (node.module or "").removeprefix("edgekd.")
                if room(theirs) != room(name):
                    private = [each.name for each in node.names if each.name.startswith("_")]
                    assert not private, f"{name}: {private} of {theirs}"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_imports_no_other_stage(name: str) -> None:
    others = {f"pipeline.stages.{other}" for other in STAGES if other != name}
    assert not others & imports(PACKAGE / "pipeline" / "stages" / f"{name}.py")


def test_losses_and_quantization_never_see_a_recipe() -> None:
    for name in ("losses", "quantization"):
        for path in (PACKAGE / name).glob("*.py"):
            assert not any(room(each) == "recipe" for each in imports(path)), path


def test_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, edgekd.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & set(HEAVY)


def test_help_and_targets_load_nothing_heavy() -> None:
    for words in (["--help"], ["targets"], ["targets", "x86-cpu-onnx"]):
        code = (
            "import sys, edgekd.cli\n"
            f"sys.argv = ['edgekd', *{words!r}]\n"
            "try: edgekd.cli.main()\n"
            "except SystemExit as stop: code = stop.code\n"
            "print('LOADED', code or 0, *sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        last = done.stdout.rsplit("LOADED", 1)[1].split()
        assert last[0] == "0"
        assert not {name.partition(".")[0] for name in last[1:]} & set(HEAVY)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    # The agent is one file because it is sent to boards as one: five runtimes, and the sensors.
    limit = 800 if path.name == "agent.py" else 400
    assert len(text.splitlines()) <= limit, "what two things does this file hold?"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 80, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_unpickles_and_no_shell_is_started(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"import pickle|pickle\.load|weights_only=False|allow_pickle=True", text)
    assert not re.search(r"shell=True|os\.system|os\.popen", text)
    if room(module(path)) != "cli":
        assert not re.search(r"(?<![.\w])print\(|sys\.exit\(", text)
    # These run where there is no edgekd.
    if path.name not in ("process.py", "agent.py", "supervisor.py", "trtexec_driver.py"):
        assert "subprocess" not in re.findall(r"^import (\w+)", text, re.M)


def test_no_file_is_named_after_nothing() -> None:
    banned = {"utils", "helpers", "common", "base", "core", "manager", "misc"}
    assert not {path.stem for path in FILES} & banned


def test_every_table_leads_to_a_module_or_function_of_its_name() -> None:
    for table, where in (
        (FORMATS, "formats"),
        (DEVICES, "devices"),
        (BUNDLES, "bundles"),
        (STAGES, "pipeline.stages"),
    ):
        for name, module in table.items():
            assert module.__name__ == f"edgekd.{where}.{name}"
    for name, function in LOSSES.items():
        assert (function.__name__, function.__module__) == (name, f"edgekd.losses.{name}")


NAMES_A_FORMAT = {
    "artifacts.artifact": "a file without a card has its format from its suffix",
    "bundles.android": "an Android package takes the formats with an Android runtime",
    "bundles.android_test": "its test program is written for one of two runtimes",
    "bundles.linux": "a Linux package takes the formats with a library on Arm",
    "bundles.swift": "a Swift package takes Core ML",
    "devices.board_setup": "the packages of each runtime on a board",
    "devices.emulation.userland": "the wheels of each runtime in the emulated userland",
    "devices.imported": "Xcode measures Core ML",
    "devices.on_device.agent": "the agent runs without edgekd, and has a class for each runtime",
    "devices.vendor_tools.benchmark_model_job": "benchmark_model runs LiteRT files",
    "devices.vendor_tools.trtexec": "trtexec builds engines of ONNX files",
    "pipeline.candidates.initial": "TensorRT and CUDA take ONNX files",
}
"""Files outside `formats/` that name a format, each with the reason."""


@pytest.mark.parametrize("name", MODULES)
def test_a_format_is_named_in_its_package_alone(name: str) -> None:
    """What differs between formats is a member of their packages: `edgekd.formats.capabilities`."""
    parts = name.split(".")
    if parts[0] == "formats" and (len(parts) == 1 or parts[1] in FORMATS):
        return
    strings = {
        node.value
        for node in ast.walk(ast.parse(MODULES[name].read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    named = sorted(strings & FORMATS.keys())
    assert bool(named) == (name in NAMES_A_FORMAT), named


def test_what_is_sent_to_boards_is_old_python_and_stands_alone() -> None:
    for name, oldest in (("agent", (3, 8)), ("supervisor", (3, 6)), ("trtexec_driver", (3, 6))):
        path = PACKAGE / "devices" / "on_device" / f"{name}.py"
        ast.parse(path.read_text(), feature_version=oldest)
        assert not imports(path)


@pytest.mark.parametrize("name", [name for name in dir(edgekd) if name != "__version__"])
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    assert getattr(edgekd, name).__doc__
