"""The model cascade through the command line: in the result, the report and the run's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd.formats import FORMATS
from tests.support.project import Project, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter


@pytest.fixture(autouse=True)
def onnx() -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)


def test_a_run_gets_a_cascade_and_reuses_all_results(project: Project, edgekd_cli: Any) -> None:
    project.write({**tiny_recipe(), "bundle": {"kinds": ["folder"]}})
    said = edgekd_cli("run", project.recipe, "--out", project.folder / "runs", "--json")
    assert said.code == 0, said.err
    before = said.json
    assert before["routes"] == {}
    said = edgekd_cli("route", before["run"], "--agreement", "0.5", "--json")
    assert said.code == 0, said.err
    found = said.json["routes"]["x86-cpu-onnx"]
    folder = Path(said.json["run"])
    assert folder != Path(before["run"])
    assert found["agreement"] == 0.5
    assert found["threshold"] is not None
    assert 0 < found["kept_frac"] <= 1
    assert found["low_frac"] >= 0.5
    assert (found["calibration_count"], found["test_count"]) == (60, 120)
    assert json.loads((folder / "route" / "x86-cpu-onnx.json").read_text()) == found
    result = json.loads((folder / "result.json").read_text())
    assert result["routes"] == {"x86-cpu-onnx": found}
    manifest = json.loads((Path(result["bundles"]["folder"]) / "manifest.json").read_text())
    assert manifest["models"][0]["routing"] == found
    assert "Model cascade" in (folder / "report.html").read_text()
    stages = {name.partition("/")[0] for name in result["reused"]}
    assert {"train", "distill", "export", "verify"} <= stages
    again = edgekd_cli("route", folder, "--agreement", "0.999")
    assert again.code == 0, again.err
    assert "no threshold guarantees 99.9% agreement" in again.out


def test_a_task_without_a_cascade_is_an_error_before_any_work(
    project: Project, edgekd_cli: Any
) -> None:
    document = tiny_recipe()
    document["route"] = {"agreement": 1.5}
    project.write(document)
    said = edgekd_cli("check", project.recipe)
    assert said.code == 2
    assert "route.agreement" in said.err
    document = tiny_recipe()
    document["route"] = {}
    del document["teacher"]
    document["distill"]["losses"] = [{"method": "hard"}]
    project.write(document)
    said = edgekd_cli("check", project.recipe)
    assert said.code == 2
    assert "[route]" in said.err
    said = edgekd_cli("route", project.folder)
    assert said.code == 2
    assert_five_parts(said.err)
