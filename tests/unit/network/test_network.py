from __future__ import annotations

import io
import os
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgekd.errors import MissingPackageError, RecipeError
from edgekd.network.load import load_module, load_network
from edgekd.network.network import Exportable, as_network
from edgekd.system.import_string import resolve
from edgekd.tasks.evaluate import count_macs
from tests.support.models import TRAPS
from tests.support.project import Project, assert_five_parts


@pytest.mark.parametrize("name", TRAPS)
def test_an_exportable_copy_gives_the_same_named_outputs(name: str) -> None:
    trap = TRAPS[name]
    module = trap.build().train()
    inputs = trap.draw(3, torch.Generator().manual_seed(0))
    network = load_network(module, example=inputs)
    assert module.training, "the user's module is left in its mode"
    assert network.signature.input_names == list(inputs)
    outputs = Exportable(network)(**inputs)
    reference = network.with_module(trap.build())(inputs)
    assert list(outputs) == network.signature.output_names == list(reference)
    for key, value in outputs.items():
        assert torch.equal(value, reference[key])


def test_inputs_are_named_after_forward_s_arguments() -> None:
    network = load_network(
        TRAPS["two-inputs"].build(), example=(torch.zeros(1, 4), torch.zeros(1, 3))
    )
    assert network.signature.input_names == ["zeta", "alpha"]
    assert network.signature.output_names == ["logits", "features"]
    assert network.signature.inputs[0].shape == (1, 4)


def test_an_example_that_does_not_fit_is_reported_with_its_shape() -> None:
    with pytest.raises(RecipeError, match="does not accept its example") as caught:
        load_network(nn.Linear(4, 2), example=torch.zeros(1, 5))
    assert "(1, 5)" in str(caught.value)


def test_a_network_without_an_example_says_how_to_give_one() -> None:
    with pytest.raises(RecipeError, match="needs example inputs"):
        load_network(nn.Linear(4, 2))


def test_a_reference_to_a_file_loads_module_and_weights(project: Project) -> None:
    module, _ = load_module("models.py:student", base=project.folder)
    save_file(module.state_dict(), project.folder / "w.safetensors")
    again, lineage = load_module("models.py:student", weights="w.safetensors", base=project.folder)
    for ours, theirs in zip(module.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert {"reference", "source_sha256", "weights_sha256"} <= set(lineage)


def test_an_exported_program_is_a_reference_and_brings_its_example(tmp_path: Path) -> None:
    module = TRAPS["signal"].build()
    inputs = TRAPS["signal"].draw(1, torch.Generator().manual_seed(0))
    torch.export.save(torch.export.export(module, (), inputs), tmp_path / "net.pt2")
    network = load_network("net.pt2", base=tmp_path)
    assert torch.allclose(network(inputs)["output"], module(**inputs), atol=1e-6)


@pytest.mark.parametrize("by_name", [True, False])
def test_an_exported_program_takes_its_inputs_as_it_was_exported(
    tmp_path: Path, by_name: bool
) -> None:
    inputs = TRAPS["two-inputs"].draw(1, torch.Generator().manual_seed(0))
    arguments = ((), inputs) if by_name else (tuple(inputs.values()), {})
    program = torch.export.export(TRAPS["two-inputs"].build(), *arguments)
    torch.export.save(program, tmp_path / "net.pt2")
    network = load_network("net.pt2", base=tmp_path)
    network.module.eval()
    network.module.train()
    found = network(dict(zip(network.signature.input_names, inputs.values(), strict=True)))
    assert torch.allclose(found["logits"], TRAPS["two-inputs"].build()(**inputs)["logits"])


def test_an_exported_program_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "evil"),)

    inputs = TRAPS["signal"].draw(1, torch.Generator().manual_seed(0))
    torch.export.save(torch.export.export(TRAPS["signal"].build(), (), inputs), tmp_path / "a.pt2")
    evil = io.BytesIO()
    torch.save({"x": Evil()}, evil)
    with (
        zipfile.ZipFile(tmp_path / "a.pt2") as good,
        zipfile.ZipFile(tmp_path / "b.pt2", "w") as bad,
    ):
        for entry in good.namelist():
            pickled = entry.endswith(".pt") or "example_inputs" in entry or "sample_inputs" in entry
            bad.writestr(entry, evil.getvalue() if pickled else good.read(entry))
    with pytest.raises(RecipeError):
        load_network("b.pt2", base=tmp_path)
    assert not (tmp_path / "evil").exists()


def test_an_edited_file_is_another_module_and_its_sources_count(project: Project) -> None:
    (project.folder / "blocks.py").write_text("WIDTH = 4\n")
    text = "from torch import nn\nimport blocks\n\n\ndef made():\n    return nn.Linear(8, {})\n"
    (project.folder / "mine.py").write_text(text.format("blocks.WIDTH"))
    first, ours = load_module("mine.py:made", base=project.folder)
    (project.folder / "mine.py").write_text(text.format("3"))
    second, theirs = load_module("mine.py:made", base=project.folder)
    assert (first.out_features, second.out_features) == (4, 3)
    assert ours["source_sha256"] != theirs["source_sha256"]


def test_an_output_that_is_none_is_no_output() -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
            return x, None

    assert load_network(Pair(), example=torch.zeros(1, 2)).signature.output_names == ["output_0"]


def test_plain_torch_weights_are_read_without_unpickling(project: Project) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("unpickled",)

    torch.save({"a": Evil()}, project.folder / "evil.pt")
    with pytest.raises(RecipeError, match="do not fit"):
        load_module("models.py:student", weights="evil.pt", base=project.folder)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("models.py:studnt", "did you mean 'student'?"),
        ("model.py:student", "did you mean 'models.py'?"),
        ("models.py", "is not a reference"),
        ("no_such_package:f", "cannot be imported"),
    ],
)
def test_a_reference_that_leads_nowhere_is_reported(
    project: Project, reference: str, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(reference, base=project.folder, at="student.load")
    assert message in str(caught.value)
    assert_five_parts(str(caught.value))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("models.py:not_a_module", "did not return a torch module"),
        ("models.py:failing", "no such file: weights.bin"),
    ],
)
def test_a_callable_that_fails_is_reported(project: Project, reference: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_module(reference, base=project.folder)


def test_weights_of_another_network_are_reported(project: Project) -> None:
    save_file({"weight": torch.zeros(1)}, project.folder / "w.safetensors")
    with pytest.raises(RecipeError, match="do not fit the network"):
        load_module("models.py:student", weights="w.safetensors", base=project.folder)


def test_timm_is_an_optional_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingPackageError, match=r"edgekd\[timm\]"):
        load_module("timm:resnet18")


def test_macs_are_those_of_one_sample() -> None:
    network = as_network(nn.Linear(10, 4), torch.zeros(7, 10))
    assert count_macs(network) == 40
    conv = as_network(nn.Conv1d(2, 3, 5, padding=2), torch.zeros(1, 2, 40))
    assert count_macs(conv) == 2 * 3 * 5 * 40
