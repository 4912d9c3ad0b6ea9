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
from edgekd.stages import STAGES

PACKAGE = Path(edgekd.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "numpy", "onnx", "openvino", "tensorflow", "ai_edge_litert", "litert_torch",
         "coremltools", "pydantic", "rich")  # fmt: skip

RANKS = {
    "errors": 0,
    **dict.fromkeys(
        [
            "need",
            "process",
            "signature",
            "scheme",
            "store",
            "toml",
            "percentile",
            "usage",
            "operators",
            "ncnn_param",
            "notebook",
            "notebook_progress",
            "integers",
        ],
        1,
    ),
    **dict.fromkeys(["recipe", "target", "artifact", "evidence", "network", "data", "task"], 2),
    **dict.fromkeys(
        [
            "sizes",
            "faults",
            "part",
            "folding",
            "packaging",
            "training",
            "reference",
            "origin",
            "acceptance",
            "program",
        ],
        2,
    ),
    **dict.fromkeys(["samples", "work", "protocol", "told", "measurement"], 2),
    **dict.fromkeys(["routing", "reduction", "endings", "result"], 2),
    **dict.fromkeys(["graph", "stored", "kinds", "precisions", "mil"], 2),
    "environment": 2,
    **dict.fromkeys(["losses", "pruning", "quantization", "formats", "devices", "bundles"], 3),
    **dict.fromkeys(["lint", "soundness", "overflow", "junit", "provenance", "judge"], 3),
    **dict.fromkeys(["fit", "evaluate", "trained", "checkpoint"], 3),
    **dict.fromkeys(["distributed", "schedule", "features", "teacher_outputs"], 3),
    **dict.fromkeys(["measure", "doctor", "black_box", "terms", "teachers", "derive", "eager"], 4),
    **dict.fromkeys(["distillation", "conversion", "cut", "execution", "gate"], 4),
    **dict.fromkeys(["conversions", "converter", "golden", "releases", "intermediates"], 4),
    **dict.fromkeys(["localization", "layerwise", "instructions", "core_counts", "report"], 4),
    **dict.fromkeys(["quantized", "exporting", "verifying", "bundle_options"], 4),
    **dict.fromkeys(["selecting", "freezing", "qat", "rounding", "float_layers", "exportable"], 4),
    **dict.fromkeys(["stages", "packing", "signing"], 5),
    **dict.fromkeys(["candidacy", "plan", "launch", "pipeline", "worker", "preview", "starter"], 6),
    **dict.fromkeys(["correctness", "calibrating"], 6),
    **dict.fromkeys(["progress", "text", "plan_text", "timing_text"], 7),
    "cli": 8,
}
# Files of one rank build on each other in this order; the rooms of rank 3 do not see each other.
# fmt: off
LAYERED = ["scheme", "toml", "store", "notebook_progress", "percentile", "task", "target",
           "artifact", "told", "measurement", "evidence", "data", "samples", "reference", "part",
           "acceptance", "sizes", "origin", "program", "network", "kinds", "precisions",
           "faults", "folding", "packaging", "training", "protocol", "reduction",
           "routing", "recipe", "work", "endings", "result", "distributed", "schedule",
           "evaluate", "teacher_outputs", "features", "checkpoint", "fit", "trained",
           "black_box", "terms", "teachers", "eager", "selecting", "quantized", "freezing",
           "distillation", "qat", "intermediates", "localization", "layerwise",
           "execution", "instructions", "core_counts", "exportable", "conversion",
           "conversions", "converter",
           "exporting", "gate", "verifying", "float_layers", "rounding", "candidacy",
           "plan", "launch", "pipeline", "worker", "preview", "starter", "calibrating"]
# fmt: on


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The modules of edgekd that `path` imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("edgekd."):
            found.add(node.module)
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "edgekd":
            found |= {f"edgekd.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.startswith("edgekd.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_below_or_from_its_own_room(path: Path) -> None:
    ours = room(path)
    if ours == "__init__":
        return
    for module in imports(path):
        theirs = module.split(".")[1]
        if theirs == ours:
            continue
        if RANKS[theirs] == RANKS[ours]:
            together = theirs in LAYERED and ours in LAYERED
            assert together, module
            assert LAYERED.index(theirs) < LAYERED.index(ours), module
        else:
            assert RANKS[theirs] < RANKS[ours], f"{path.name} imports {module}, which is above it"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_imports_no_other_stage(name: str) -> None:
    others = {f"edgekd.stages.{other}" for other in STAGES if other != name}
    assert not others & imports(PACKAGE / "stages" / f"{name}.py")


def test_losses_and_quantization_never_see_a_recipe() -> None:
    for name in ("losses", "quantization"):
        for path in (PACKAGE / name).glob("*.py"):
            assert "edgekd.recipe" not in imports(path), path


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
    limit = 780 if path.name == "agent.py" else 400
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
    if room(path) != "cli":
        assert not re.search(r"(?<![.\w])print\(|sys\.exit\(", text)
    # These run where there is no edgekd.
    if path.name not in ("process.py", "agent.py", "keeper.py", "trtexec_driver.py"):
        assert "subprocess" not in re.findall(r"^import (\w+)", text, re.M)


def test_no_file_is_named_after_nothing() -> None:
    banned = {"utils", "helpers", "common", "base", "core", "manager", "misc"}
    assert not {path.stem for path in FILES} & banned


def test_every_table_leads_to_a_module_or_function_of_its_name() -> None:
    for table, where in (
        (FORMATS, "formats"),
        (DEVICES, "devices"),
        (BUNDLES, "bundles"),
        (STAGES, "stages"),
    ):
        for name, module in table.items():
            assert module.__name__ == f"edgekd.{where}.{name}"
    for name, function in LOSSES.items():
        assert (function.__name__, function.__module__) == (name, f"edgekd.losses.{name}")


def test_what_is_sent_to_boards_is_old_python_and_stands_alone() -> None:
    for name, oldest in (("agent", (3, 8)), ("keeper", (3, 6)), ("trtexec_driver", (3, 6))):
        path = PACKAGE / "devices" / f"{name}.py"
        ast.parse(path.read_text(), feature_version=oldest)
        assert not imports(path)


@pytest.mark.parametrize("name", [name for name in edgekd.__all__ if name != "__version__"])
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    assert getattr(edgekd, name).__doc__
