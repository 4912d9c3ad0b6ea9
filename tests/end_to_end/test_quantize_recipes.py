"""Recipes that search quantization methods, and accuracy recovery if all of them fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekd.formats import FORMATS
from tests.support.project import OUTLIER, Project, tiny_recipe
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter


@pytest.fixture
def outlier(project: Project) -> Project:
    need_modules(*FORMATS["onnx"].PACKAGES)
    models = project.folder / "models.py"
    models.write_text(models.read_text() + OUTLIER)
    return project


def searched(**more: Any) -> dict[str, Any]:
    document = tiny_recipe()
    document["quantize"] = {"schemes": ["fp32", "int8"], **more}
    return document


def test_every_suitable_method_is_a_candidate(edgekd_cli: Any, project: Project) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    out = project.folder / "runs"
    said = edgekd_cli("run", project.write(searched()), "--out", out, "--json")
    assert said.code == 0, said.err
    rows = {row["candidate"]: row for row in said.json["rows"]}
    assert list(rows) == ["fp32", "int8", "int8.percentile"]
    assert [row["method"] for row in rows.values()] == [None, "min-max", "percentile"]
    for name, row in rows.items():
        assert row["outcome"] == "passed"
        assert Path(row["artifact"]["path"]).parent.name == name
    assert said.json["chosen"]["x86-cpu-onnx"]["candidate"] in rows
    for fewer in ({"search": "first"}, {"candidates": 1}):
        words = ("run", project.write(searched(**fewer)), "--out", out, "--json")
        said = edgekd_cli(*words, "--until", "quantize")
        assert [row["candidate"] for row in said.json["rows"]] == ["fp32", "int8"]


def test_a_layer_that_int8_cannot_represent_stays_in_float(
    edgekd_cli: Any, outlier: Project
) -> None:
    document = searched(calibration="calibration.toml")
    (outlier.folder / "calibration.toml").write_text(
        'source = "train"\ncount = 32\nselection = "first"\nlicence = "none"\n'
    )
    document["student"]["load"] = "models.py:Outlier"
    document["accept"] = {"max_drop": 0.5, "min_agreement": 0.97}
    out = outlier.folder / "runs"
    said = edgekd_cli("run", outlier.write(document), "--out", out, "--json")
    assert said.code == 0, said.err
    tried = [row for row in said.json["rows"] if row["scheme"] == "int8"]
    *missed, last = tried
    assert len(missed) > 2, "all methods miss before layers are left in float"
    assert {row["outcome"] for row in missed} == {"disagrees"}
    assert last["outcome"] == "passed"
    assert 1 <= len(last["keep"]) <= 2
    assert last["candidate"] == f"int8.{last['method']}.keep-{len(last['keep'])}"
    assert last["agreement"]["top1_agreement_frac"] >= 0.97
    assert last["artifact"]["size_bytes"]
    assert last["measurement"]["ratio"]["parent"] == "fp32"
