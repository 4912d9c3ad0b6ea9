"""A format from a package of one's own, by its entry point alone, is one like the others.

It keeps a network of linear layers as safetensors and a line of JSON, and torch runs it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import edgekd
from edgekd.formats import format_names
from tests.support.project import Project, tiny_recipe

FORMAT = '''
"""A network of linear layers and ReLU as safetensors, run by torch."""

import json
from collections import Counter
from operator import attrgetter
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from edgekd.artifacts.graph import Graph, OperatorKind
from edgekd.artifacts.operators import OperatorRoles
from edgekd.artifacts.weights import Constant
from edgekd.formats.capture import exported
from edgekd.formats.lint import LintFinding

TITLE, SUFFIX, RUNTIME, EXTRA = "Stack", ".stack", "stack", "stack"
PACKAGES = ("safetensors",)
SCHEMES = {"fp32": "weights in fp32", "int8-weights": "int8 weights, widened at run time"}
OPERATORS = OperatorRoles(products=("linear",), weighted=frozenset({"linear"}))
AGENT_RUNTIME = Path(__file__).with_name("stack_runtime.py")


def convert(network, calibration, path, options):
    layers, tensors = [], {}
    for number, (kind, values) in enumerate(layers_of(exported(network).module())):
        layers.append(kind)
        tensors |= {f"{number}.{name}": value.clone() for name, value in values.items()}
    if options.scheme == "int8-weights":
        for name in [name for name in tensors if name.endswith("weight")]:
            scale = tensors[name].abs().max() / 127
            tensors[f"{name}.scale"] = scale.reshape(1)
            tensors[name] = (tensors[name] / scale).round().to(torch.int8)
    (entry,), (output,) = network.signature.inputs, network.signature.outputs
    about = {"layers": layers, "input": [entry.name, list(entry.shape)], "output": output.name}
    save_file(tensors, path, metadata={"stack": json.dumps(about)})
    return SCHEMES[options.scheme]


def layers_of(program):
    """The linear layers of a program, batch norms folded in, and its activations."""
    layers = []
    for node in program.graph.nodes:
        constants = [
            attrgetter(argument.target)(program).detach()
            for argument in node.args
            if isinstance(argument, torch.fx.Node) and argument.op == "get_attr"
        ]
        name = getattr(node.target, "overloadpacket", node.target)
        if name is torch.ops.aten.linear:
            layers.append(("linear", {"weight": constants[0], "bias": constants[1]}))
        elif name is torch.ops.aten.batch_norm:
            weight, bias, mean, variance = constants
            factor, before = weight / (variance + node.args[7]).sqrt(), layers[-1][1]
            before["weight"] = before["weight"] * factor[:, None]
            before["bias"] = (before["bias"] - mean) * factor + bias
        elif name is torch.ops.aten.relu:
            layers.append(("relu", {}))
        elif node.op == "call_function":
            raise ValueError(f"stack has no {node.target}")
    return layers


def about(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["stack"])


def read_graph(path):
    layers = about(path)["layers"]
    kinds = Counter(OperatorKind(name, ("float32",), ("float32",)) for name in layers)
    return Graph("stack", kinds, 1, 1, OPERATORS)


def read_weights(path):
    for name, value in load_file(path).items():
        if not name.endswith("scale"):
            yield Constant("linear", str(value.dtype).removeprefix("torch."), tuple(value.shape))


def lint(graph, target, scheme):
    count = graph.operators.get("relu", 0)
    if count:
        yield LintFinding("slow", "relu", count, "relu is a pass of its own", "read", "fuse it")
'''

RUNTIME = """
import json
import time

import numpy
import torch
from safetensors import safe_open


class Runtime:
    packages = ("torch",)

    def __init__(self, torch, path, job):
        torch.set_num_threads(job["threads"])
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["stack"])
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}
        self.layers = about["layers"]
        name, shape = about["input"]
        self.inputs, self.outputs = [(name, shape, "float32")], [about["output"]]
        self.facts = {"runtime": "stack", "version": torch.__version__}
        self.fell_back = None

    def weight(self, number):
        weight = self.tensors["%d.weight" % number]
        scale = self.tensors.get("%d.weight.scale" % number)
        return weight if scale is None else weight.float() * scale

    def put(self, feed):
        self.value = torch.from_numpy(feed[self.inputs[0][0]])

    def invoke(self):
        value = self.value
        for number, layer in enumerate(self.layers):
            if layer == "linear":
                bias = self.tensors["%d.bias" % number]
                value = torch.nn.functional.linear(value, self.weight(number), bias)
            else:
                value = value.relu()
        self.result = value.numpy()

    def take(self):
        return [self.result]
"""

TARGET = """
format = "stack"
schemes = ["fp32", "int8-weights"]
machine = "x86_64"
device = "local"
connection = "local"
description = "this machine, by torch"
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with the format `stack`."""
    site = tmp_path / "site"
    entry = site / "stack_format-1.0.dist-info"
    entry.mkdir(parents=True)
    (site / "stack_format.py").write_text(FORMAT)
    (site / "stack_runtime.py").write_text(RUNTIME)
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: stack-format\nVersion: 1.0\n")
    (entry / "entry_points.txt").write_text("[edgekd.formats]\nstack = stack_format\n")
    root = Path(edgekd.__file__).parents[1]
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(root), before]))
    monkeypatch.syspath_prepend(str(site))


@pytest.fixture
def recipe(project: Project) -> Path:
    document = tiny_recipe() | {"version": "1.0.0", "bundle": {"kinds": ["folder", "archive"]}}
    document["quantize"] = {"schemes": ["fp32", "int8-weights"]}
    document["export"] = {"processes": 1}
    document["targets"] = [{"name": "here.toml", "prefer": "size"}]
    (project.folder / "here.toml").write_text(TARGET)
    return project.write(document)


@pytest.mark.usefixtures("package")
def test_a_recipe_exports_verifies_times_chooses_and_bundles_it(
    recipe: Path, project: Project, edgekd_cli: Any
) -> None:
    assert format_names()[-1] == "stack"
    said = edgekd_cli("run", recipe, "--out", project.folder / "runs", "--json")
    assert said.code == 0, said.err
    fp32, int8 = said.json["rows"]
    for row in (fp32, int8):
        assert row["format"] == "stack"
        assert row["agreement"]["outcome"] == "passed"
        assert row["agreement"]["runtime"]["runtime"] == "stack"
        assert row["measurement"]["p50_ms"] > 0
        assert any("relu is a pass of its own" in note for note in row["notes"])
    assert fp32["agreement"]["sqnr_db"] > 90
    assert 20 < int8["agreement"]["sqnr_db"] < 90
    card = Path(said.json["run"]) / "artifacts" / "here" / "int8-weights" / "artifact.json"
    lineage = json.loads(card.read_text())["lineage"]
    assert lineage["quantized_weights_frac"] == 1
    assert lineage["operators"] == {"linear": 2, "relu": 1}
    assert said.json["chosen"]["here"]["scheme"] in ("fp32", "int8-weights")
    bundle = Path(said.json["bundles"]["folder"])
    (model,) = json.loads((bundle / "manifest.json").read_text())["models"]
    assert model["format"] == "stack"
    assert model["entry"].endswith("model.stack")
    archive = next(Path(said.json["bundles"]["archive"]).glob("*.zip"))
    checked = edgekd_cli("bundle", "--check", archive)
    assert checked.code == 0, checked.err


@pytest.mark.usefixtures("package")
def test_its_file_passes_through_the_single_commands(
    project: Project, edgekd_cli: Any, tmp_path: Path
) -> None:
    model = f"{project.folder / 'models.py'}:student"
    weights, samples = tmp_path / "w.safetensors", tmp_path / "s.safetensors"
    write_weights(project, weights, samples)
    common = ("--weights", weights)
    said = edgekd_cli(
        "export", model, "--example", "input=1x8", "--format", "stack", "--out", tmp_path, *common
    )
    assert said.code == 0, said.err
    folder = tmp_path / "stack-fp32"
    said = edgekd_cli("verify", folder, "--against", model, "--samples", samples, *common)
    assert said.code == 0, said.err
    assert edgekd_cli("benchmark", folder).code == 0
    # What it does not have is refused by name, before any work.
    for option, value, expected in (
        ("--opset", "17", "format onnx"),
        ("--io", "int8", "stack has no such option"),
        ("--method", "mse", "stack has no method 'mse'"),
    ):
        said = edgekd_cli(
            "export", model, "--example", "input=1x8", "--format", "stack", "--out", tmp_path,
            option, value, *common,
        )  # fmt: skip
        assert said.code != 0
        assert expected in said.err
    layers = edgekd_cli(
        "verify", folder, "--against", model, "--samples", samples, "--layers", *common
    )
    assert "inner tensors of this format cannot be read" in layers.err


def write_weights(project: Project, weights: Path, samples: Path) -> None:
    import runpy

    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    student = runpy.run_path(str(project.folder / "models.py"))["student"]()
    save_file(student.state_dict(), weights)
    save_file({"input": torch.randn(16, 8)}, samples)
