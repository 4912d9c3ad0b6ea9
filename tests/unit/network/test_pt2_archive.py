"""An exported program of a stranger runs no code: every way that torch leaves open is tried."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import edgekd
from edgekd.errors import RecipeError
from edgekd.network.exported_program import load_program
from edgekd.network.pt2_archive import UnsafeArchiveError, check_archive


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": self.layer(x).reshape(x.shape[0] * 2, -1)}


class Payload:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.pt2"
    batch = torch.export.Dim("batch", min=2, max=8)
    program = torch.export.export(
        Doubled().eval(), (), {"x": torch.zeros(4, 4)}, dynamic_shapes={"x": {0: batch}}
    )
    torch.export.save(program, path)
    return path


Entries = dict[str, bytes]


def forged(good: Path, change: Callable[[Entries], None]) -> Path:
    """A copy of the archive with `change` applied to its entries by their inner names."""
    path = good.with_name("forged.pt2")
    with zipfile.ZipFile(good) as source:
        entries = {name.partition("/")[2]: source.read(name) for name in source.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for name, data in entries.items():
            target.writestr(f"forged/{name}", data)
    return path


MODEL = "models/model.json"
CONSTANTS = "data/constants/model_constants_config.json"
WEIGHTS = "data/weights/model_weights_config.json"


def edit(entries: Entries, name: str, change: Callable[[Any], None]) -> None:
    document = json.loads(entries[name])
    change(document)
    entries[name] = json.dumps(document).encode()


def pickled(entries: Entries, command: str, name: str) -> None:
    payload = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}
    edit(entries, CONSTANTS, lambda table: table["config"].update(zz=payload))
    entries[f"data/constants/{name}"] = pickle.dumps(Payload(command))


def opaque(entries: Entries, command: str) -> None:
    pickled(entries, command, "opaque_obj_0")


def script(entries: Entries, command: str) -> None:
    pickled(entries, command, "custom_obj_0")


def elsewhere(entries: Entries, command: str) -> None:
    """The object lies outside of the constants, and the table leads to it."""
    pickled(entries, command, "../opaque_obj_0")
    entries["data/opaque_obj_0"] = pickle.dumps(Payload(command))


def compiled(entries: Entries, command: str) -> None:
    entries["data/aotinductor/model/wrapper.so"] = command.encode()


def size(entries: Entries, command: str) -> None:
    text = f"__import__('os').system({command!r})"

    def change(model: Any) -> None:
        values = model["graph_module"]["graph"]["tensor_values"]
        values["x"]["sizes"][0]["as_expr"]["expr_str"] = text

    edit(entries, MODEL, change)


def size_by_attribute(entries: Entries, command: str) -> None:
    text = f"Symbol('a').__class__.__init__.__globals__['os'].system({command!r})"

    def change(model: Any) -> None:
        values = model["graph_module"]["graph"]["tensor_values"]
        values["x"]["sizes"][0]["as_expr"]["expr_str"] = text

    edit(entries, MODEL, change)


def operator(entries: Entries, command: str) -> None:
    def change(model: Any) -> None:
        node = model["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.os.system"
        node["inputs"] = [{"name": "command", "arg": {"as_string": command}, "kind": 1}]

    edit(entries, MODEL, change)


def value_name(entries: Entries, command: str) -> None:
    text = entries[MODEL].decode()
    name = f"x=__import__('os').system({command!r})"
    entries[MODEL] = text.replace('"name": "x"', json.dumps({"name": name})[1:-1]).encode()


def argument_name(entries: Entries, command: str) -> None:
    name = f"x=__import__('os').system({command!r})"

    def change(model: Any) -> None:
        for call in model["graph_module"]["module_call_graph"]:
            if call.get("signature"):
                call["signature"]["forward_arg_names"] = [name]

    edit(entries, MODEL, change)


def keyword(entries: Entries, command: str) -> None:
    name = f"x=__import__('os').system({command!r})"

    def change(model: Any) -> None:
        for call in model["graph_module"]["module_call_graph"]:
            if call.get("signature"):
                version, tree = json.loads(call["signature"]["in_spec"])
                tree["children_spec"][1]["context"] = json.dumps([name])
                call["signature"]["in_spec"] = json.dumps([version, tree])

    edit(entries, MODEL, change)


def imported(entries: Entries, command: str) -> None:
    def change(model: Any) -> None:
        for call in model["graph_module"]["module_call_graph"]:
            if call.get("signature"):
                version, tree = json.loads(call["signature"]["out_spec"])
                tree["type"] = "collections.defaultdict"
                tree["context"] = {"default_factory_module": "os", "default_factory_name": command}
                call["signature"]["out_spec"] = json.dumps([version, tree])

    edit(entries, MODEL, change)


REFUSED = [
    opaque, script, elsewhere, compiled, size, size_by_attribute, operator, value_name,
    argument_name, keyword, imported,
]  # fmt: skip


@pytest.mark.parametrize("attack", REFUSED, ids=lambda attack: attack.__name__)
def test_what_could_run_code_is_refused_by_name(
    attack: Any, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = forged(good, lambda entries: attack(entries, "touch RAN"))
    with pytest.raises(UnsafeArchiveError, match=r"opaque_obj|custom_obj|model"):
        check_archive(path)
    with pytest.raises(RecipeError) as caught:
        edgekd.load_network(str(path), example={"x": torch.zeros(4, 4)})
    assert path.name in str(caught.value)
    assert not (tmp_path / "RAN").exists()


def sample_inputs(entries: Entries, command: str) -> None:
    entries["data/sample_inputs/model.pt"] = saved(command)


def weight(entries: Entries, command: str) -> None:
    def change(table: Any) -> None:
        for number, payload in enumerate(table["config"].values()):
            payload |= {"use_pickle": True, "path_name": f"weight_{number}"}

    edit(entries, WEIGHTS, change)
    for name in [name for name in entries if name.startswith("data/weights/weight_")]:
        entries[name] = saved(command)


def old_weights(entries: Entries, command: str) -> None:
    entries["data/weights/model.pt"] = saved(command)


def saved(command: str) -> bytes:
    buffer = io.BytesIO()
    torch.save(Payload(command), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "attack", [sample_inputs, weight, old_weights], ids=lambda attack: attack.__name__
)
def test_tensors_are_read_without_unpickling_anything_else(
    attack: Any, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = forged(good, lambda entries: attack(entries, "touch RAN"))
    with pytest.raises(Exception, match=r"(?i)weights.only|unsupported|pickle"):
        load_program(path)
    assert not (tmp_path / "RAN").exists()


def test_what_is_no_archive_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "text.pt2"
    path.write_text("no archive")
    with pytest.raises(ValueError, match="is no archive"):
        check_archive(path)


def test_a_program_that_is_safe_is_loaded(good: Path) -> None:
    program = load_program(good)
    x = torch.randn(3, 4)
    assert program(x)["y"].shape == (6, 2)
