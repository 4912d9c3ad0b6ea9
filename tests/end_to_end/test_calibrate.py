"""Calibration sets made from a recipe's data, with identical samples in every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgekd.artifacts.scheme import SCHEMES
from edgekd.conversion.export import samples_digest
from edgekd.data import single
from edgekd.formats import FORMATS, Format
from edgekd.formats.options import ExportOptions
from edgekd.system.files import path_digest
from edgekd.system.toml import read_toml
from tests.support.project import Project, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter


def recipe(calibration: str, *schemes: str, trained: bool = False) -> dict[str, Any]:
    """A recipe for int8 that trains only if a selection uses its networks."""
    document = tiny_recipe()
    named = {"schemes": [*schemes, "int8"], "calibration": calibration}
    document["quantize"] = {**named, "search": "first"}
    if not trained:
        del document["teacher"], document["distill"]
    return document


def calibrate(edgekd_cli: Any, project: Project, *args: object) -> Any:
    said = edgekd_cli(
        "calibrate", project.recipe, "--runs", project.folder / "runs", *args, "--json"
    )
    assert said.code == 0, said.err
    return said.json


@pytest.mark.parametrize(
    ("selection", "looked_at"),
    [
        ("random", None),
        ("stratified", None),
        ("k-centre", "the input of layer 3 of the teacher"),
        ("highest-loss", "the loss of the student against the labels"),
    ],
)
def test_a_recipe_that_names_a_made_set_gets_exactly_its_samples(
    project: Project, edgekd_cli: Any, selection: str, looked_at: str | None
) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    project.write(recipe("calibration/mine.toml", trained=looked_at is not None))
    args = ("--name", "mine", "--count", 40, "--selection", selection, "--licence", "CC0-1.0")
    document = calibrate(edgekd_cli, project, *args)
    assert document.get("looked_at") == looked_at
    folder = project.folder / "calibration"
    assert document["sha256"] == path_digest(folder / "mine.safetensors")
    on_disk = read_toml(folder / "mine.toml")
    assert on_disk["licence"] == "CC0-1.0"
    assert on_disk["preprocessing"] == "that of data.py:blobs"
    frozen = load_file(folder / "mine.safetensors")["input"]
    assert frozen.shape == (40, 8)
    assert len(frozen.unique(dim=0)) == 40

    run = ("run", project.recipe, "--out", project.folder / "runs", "--until", "quantize", "--json")
    said = edgekd_cli(*run)
    assert said.code == 0, said.err
    if looked_at:  # The run reuses the network that the selection trained.
        assert "train" in said.json["reused"]
    samples = Path(said.json["run"]) / "quantize" / "calibration.safetensors"
    assert torch.equal(load_file(samples)["input"], frozen)
    # Also where the file is not at hand, from the same data: by the digest in the set.
    (folder / "mine.safetensors").unlink()
    assert edgekd_cli(*run).code == 0
    (folder / "mine.toml").write_text(
        (folder / "mine.toml").read_text().replace(document["sha256"], "0" * 64)
    )
    wrong = edgekd_cli(*run)
    assert wrong.code == 2
    assert "not the ones the set was made of" in wrong.err
    assert_five_parts(wrong.err)


def test_k_centre_uses_the_outputs_of_a_teacher_that_is_a_table(
    project: Project, edgekd_cli: Any
) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    document = recipe("random-128", trained=True)
    document["teacher"] = {"load": "outputs:table.safetensors"}
    project.write(document)
    outputs = torch.zeros(240, 3)
    outputs[200:] = torch.eye(3).repeat(14, 1)[:40]
    save_file({"train": outputs}, project.folder / "table.safetensors")
    (project.folder / "data.py").write_text(
        (project.folder / "data.py").read_text().replace(", augment=noise", "")
    )
    made = calibrate(edgekd_cli, project, "--count", 4, "--selection", "k-centre")
    assert made["looked_at"] == "the table outputs:table.safetensors"
    # Four samples with four outputs: one of the equal ones, and one of each other output.
    train = edgekd_data(project)
    frozen = load_file(made["samples"])["input"]
    ids = [int((train == sample).all(1).nonzero()) for sample in frozen]
    assert sum(i < 200 for i in ids) == 1
    assert {i % 3 for i in ids if i >= 200} == {0, 1, 2}


def edgekd_data(project: Project) -> torch.Tensor:
    """The inputs of the project's training split."""
    from edgekd.system.import_string import resolve

    torch.manual_seed(0)
    data = resolve("data.py:blobs", base=project.folder, at="data.load")()
    return data.train.tensors[0]


def test_changed_samples_are_an_error(project: Project, edgekd_cli: Any) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    project.write(recipe("calibration/random-40.toml"))
    document = calibrate(edgekd_cli, project, "--count", 40)
    run = ("run", project.recipe, "--out", project.folder / "runs", "--until", "quantize")
    changed = {"input": 1.1 * load_file(document["samples"])["input"]}
    save_file(changed, document["samples"])
    said = edgekd_cli(*run)
    assert said.code == 2
    assert "not the ones the set was made of" in said.err

    card = Path(document["path"])
    card.write_text(
        card.read_text().replace(document["sha256"], path_digest(Path(document["samples"])))
    )
    assert edgekd_cli(*run).code == 0
    card.write_text(card.read_text().replace("count = 40", "count = 41"))
    said = edgekd_cli(*run)
    assert said.code == 2
    assert "has the wrong number of samples" in said.err
    assert_five_parts(said.err)


def test_unnormalized_samples_are_an_error_before_any_export(
    project: Project, edgekd_cli: Any
) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    project.write(recipe("raw.toml"))
    (project.folder / "raw.toml").write_text(
        'source = "train"\ncount = 60\nselection = "first"\nlicence = "none"\n'
    )
    save_file({"input": 255 * torch.rand(60, 8)}, project.folder / "raw.safetensors")
    said = edgekd_cli("run", project.recipe, "--out", project.folder / "runs")
    assert said.code == 2
    assert "not on the scale of the training data" in said.err
    assert_five_parts(said.err)


def test_doubts_about_samples_are_in_the_row_and_in_the_log(
    project: Project, edgekd_cli: Any
) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    project.write(recipe("few.toml", "fp32"))
    (project.folder / "few.toml").write_text(
        'source = "train"\ncount = 5\nselection = "first"\nlicence = "none"\n'
    )
    out = project.folder / "runs"
    said = edgekd_cli("run", project.recipe, "--out", out, "--until", "export", "--json")
    fp32, int8 = said.json["rows"]
    assert "only 5 calibration samples" in " ".join(int8["notes"])
    assert "calibration samples" not in " ".join(fp32["notes"])
    assert "only 5 calibration samples" in (Path(said.json["run"]) / "log.txt").read_text()


def test_a_set_that_cannot_be_made_is_an_error(project: Project, edgekd_cli: Any) -> None:
    runs = ("--runs", project.folder / "runs")
    for args, message in (
        (("--selection", "best"), "random, stratified, first, k-centre or highest-loss"),
        (("--source", "test"), "train, validation or unlabeled"),
        (("--source", "unlabeled"), "The data has no unlabeled split"),
        (("--count", 4000), "fewer samples than the calibration set asks for"),
    ):
        said = edgekd_cli("calibrate", project.recipe, *runs, *args)
        assert said.code == 2, args
        assert message in said.err
        assert_five_parts(said.err)
    assert not (project.folder / "calibration").exists()
    assert edgekd_cli("calibrate", project.recipe, *runs).code == 0
    again = edgekd_cli("calibrate", project.recipe, *runs)
    assert again.code == 2
    assert "exists already" in again.err
    assert edgekd_cli("calibrate", project.recipe, *runs, "--force").code == 0


def calibrated() -> list[str]:
    """The formats with a scheme that needs calibration."""
    return [
        name
        for name, module in FORMATS.items()
        if any(SCHEMES[scheme].calibrated for scheme in module.SCHEMES)
    ]


def test_every_format_gets_the_same_samples_in_the_same_order(
    project: Project, edgekd_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, list[torch.Tensor]] = {}

    def watched(name: str, module: Format) -> Any:
        write = module.convert

        def convert(network: Any, calibration: Any, path: Path, options: ExportOptions) -> str:
            if SCHEMES[options.scheme].calibrated:
                given[name] = [sample["input"].clone() for sample in calibration]
            return write(network, calibration, path, options)

        return convert

    names = calibrated()
    targets = []
    for name in names:
        need_modules(*FORMATS[name].PACKAGES)
        monkeypatch.setattr(FORMATS[name], "convert", watched(name, FORMATS[name]))
        target = "iphone-15-coreml" if name == "coreml" else f"x86-cpu-{name}"
        targets.append({"name": target, "required": False})
    document = recipe("set.toml") | {"targets": targets}
    # Wide enough that Core ML's quantizer takes its weights for any.
    document["student"] |= {"load": "models.py:net", "options": {"width": 96}}
    (project.folder / "set.toml").write_text(
        'source = "train"\ncount = 33\nselection = "random"\nlicence = "none"\n'
    )
    args = ("--out", project.folder / "runs", "--until", "export", "--json")
    said = edgekd_cli("run", project.write(document), *args)
    assert said.code == 0, said.err
    assert {row["format"] for row in said.json["rows"] if row["artifact"]} == set(names)
    run = Path(said.json["run"])
    frozen = load_file(run / "quantize" / "calibration.safetensors")
    assert set(given) == set(names)
    for name in names:
        assert torch.equal(torch.cat(given[name]), frozen["input"]), name
    # The files say so themselves.
    expected = samples_digest(single(frozen))
    cards = [read_card(path) for path in run.glob("artifacts/*/int8*/artifact.json")]
    assert [card["lineage"]["calibration"] for card in cards] == [expected] * len(names)


def read_card(path: Path) -> Any:
    return json.loads(path.read_text())
