"""Recipes whose int8 files take and give whole numbers, up to the bundle and those who take it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.artifacts.artifact import load_artifact
from edgekd.formats import FORMATS
from edgekd.formats.capabilities import integer_io_formats
from tests.support.project import Project, assert_five_parts, tiny_recipe
from tests.support.runtimes import RUN
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

IO_FORMATS = tuple(integer_io_formats())


def recipe(*schemes: str, io: str = "uint8", formats: tuple[str, ...] = IO_FORMATS) -> Any:
    document = tiny_recipe()
    document["version"] = "1.0.0"
    document["quantize"] |= {"schemes": list(schemes), "calibration": "calibration.toml"}
    document["export"]["io"] = io
    document["targets"] = [{"name": f"x86-cpu-{name}"} for name in formats]
    return document


@pytest.fixture
def calibrated(project: Project) -> Project:
    (project.folder / "calibration.toml").write_text(
        'source = "train"\ncount = 64\nselection = "random"\nlicence = "none"\n'
    )
    return project


def test_one_who_has_the_bundle_alone_gets_what_it_says(
    edgekd_cli: Any, calibrated: Project
) -> None:
    for name in IO_FORMATS:
        need_modules(*FORMATS[name].PACKAGES)
    document = recipe("int8")
    document["bundle"] = {"kinds": ["folder", "linux"]}
    words = ("--out", calibrated.folder / "runs", "--json")
    said = edgekd_cli("run", calibrated.write(document), *words)
    assert said.code == 0, said.err
    bundle = Path(said.json["bundles"]["folder"])
    models = json.loads((bundle / "manifest.json").read_text())["models"]
    assert sorted(model["format"] for model in models) == sorted(IO_FORMATS)
    for model in models:
        (given,), (taken,) = model["inputs"], model["outputs"]
        assert (given["dtype"], taken["dtype"]) == ("uint8", "uint8")
        artifact = load_artifact(
            Path(
                next(r for r in said.json["rows"] if r["target"] == model["target"])["artifact"][
                    "path"
                ]
            )
        )
        for spec in (given, taken):
            step = artifact.quantization[spec["name"]]
            told = {"scale": step.scale, "zero_point": step.zero_point}
            assert spec["quantization"] == told
        consume(bundle, model)
    said = edgekd_cli("bundle", bundle, "--check")
    assert said.code == 0, said.err
    assert said.out.count("passed") == len(models)
    (header,) = (Path(bundle.parent) / "linux").rglob("*.h")
    lines = header.read_text().splitlines()
    for model in models:
        scale = model["inputs"][0]["quantization"]["scale"]
        assert any(line.endswith(f"_INPUT_0_SCALE {scale!r}") for line in lines)


def consume(bundle: Path, model: dict[str, Any]) -> None:
    """Gives a model real values and finds its golden outputs, by manifest and file alone."""
    (spec,), (output,) = model["inputs"], model["outputs"]
    count, step = model["golden"]["count"], spec["quantization"]
    raw = np.fromfile(bundle / model["golden"]["inputs"][spec["name"]], spec["dtype"])
    expected = model["golden"]["outputs"][output["name"]]
    assert expected["max_abs_error"] >= 1
    wanted = np.fromfile(bundle / expected["path"], output["dtype"]).reshape(count, -1)
    values = step["scale"] * (raw.astype(np.float64) - step["zero_point"])
    for number, value in enumerate(values.reshape(count, 1, -1)):
        given = np.rint(value / step["scale"]) + step["zero_point"]
        feed = {spec["name"]: given.clip(0, 255).astype(spec["dtype"])}
        found = RUN[model["format"]](bundle / model["entry"], feed)[output["name"]]
        off = found[0].astype(int) - wanted[number].astype(int)
        assert abs(off).max() <= expected["max_abs_error"]


def test_fp32_stays_in_float_and_is_timed_beside_int8(edgekd_cli: Any, calibrated: Project) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    document = recipe("fp32", "int8", io="int8", formats=("onnx",))
    document["quantize"] |= {"sensitivity": True, "qat_epochs": 2, "qat_learning_rate": 1e-3}
    words = ("--out", calibrated.folder / "runs", "--json")
    said = edgekd_cli("run", calibrated.write(document), *words)
    assert said.code == 0, said.err
    fp32, int8, trained = said.json["rows"]
    assert load_artifact(Path(fp32["artifact"]["path"])).quantization == {}
    steps = load_artifact(Path(int8["artifact"]["path"])).quantization
    assert {step.dtype for step in steps.values()} == {"int8"}
    assert int8["measurement"]["ratio"]["parent"] == "fp32"
    assert int8["agreement"]["sqnr_db"] > 20
    # The simulation is held against the file as its outputs are: rounded once more.
    assert trained["agreement"]["simulation_db"] > trained["agreement"]["sqnr_db"] + 6
    # The same without whole numbers is another file, and is written anew.
    document["export"].pop("io")
    document["quantize"] = {**recipe("fp32", "int8")["quantize"]}
    said = edgekd_cli("run", calibrated.write(document), *words, "--until", "verify")
    again = next(row for row in said.json["rows"] if row["scheme"] == "int8")
    assert load_artifact(Path(again["artifact"]["path"])).quantization == {}
    assert again["agreement"]["sqnr_db"] > int8["agreement"]["sqnr_db"] - 1


WRONG: dict[str, tuple[Any, str, str]] = {
    "no int8": (recipe("fp32", formats=("onnx",)), "export.io", "fp32"),
    "core ml": (recipe("fp32", "int8", formats=("onnx",)), "export.io", "iOS 26"),
    "unknown": (recipe("int8", io="int4", formats=("onnx",)), "export.io", "'int4'"),
}
WRONG["core ml"][0]["targets"] = [{"name": "iphone-15-coreml"}]


@pytest.mark.parametrize("name", WRONG)
def test_what_no_file_could_take_is_told_before_any_work(
    name: str, edgekd_cli: Any, calibrated: Project
) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES, *FORMATS["coreml"].PACKAGES)
    document, at, got = WRONG[name]
    said = edgekd_cli("check", calibrated.write(document))
    assert said.code == 2, said.err
    assert_five_parts(said.err)
    assert at in said.err
    assert got in said.err


def test_a_target_that_cannot_has_its_other_schemes(edgekd_cli: Any, calibrated: Project) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES, *FORMATS["coreml"].PACKAGES)
    document = recipe("fp16", "int8", formats=("onnx",))
    document["targets"].append({"name": "iphone-15-coreml"})
    said = edgekd_cli("check", calibrated.write(document), "--json")
    assert said.code == 0, said.err
    assert "iOS 26" in said.out
