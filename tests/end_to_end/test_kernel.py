"""edgekd in a notebook with a real kernel: progress under the cell, results as tables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import edgekd
from edgekd.formats import FORMATS
from tests.support.project import Project
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

CELLS = [
    """import edgekd
result = edgekd.run("recipe.toml", out="runs")""",
    "result",
    """import models
from data import blobs
data, config = blobs(), edgekd.load_recipe("recipe.toml").distill
example = {"x": data.test[0][0][None]}
teacher = edgekd.load_network(models.teacher(), example=example)
student = edgekd.load_network(models.student(), example=example)
student = edgekd.distill(teacher, student, data, config)""",
    """samples = [{name: data.test[number][0][None] for name in student.signature.input_names}
           for number in range(20)]
artifact = edgekd.export(student, format="onnx", scheme="fp32", out="build")
edgekd.verify(artifact, student, samples)""",
]


def cells_of(project: Project, cells: list[str]) -> list[Any]:
    """The outputs of each cell after running the notebook in the project's folder."""
    import nbformat
    from nbclient import NotebookClient

    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in cells])
    place = {"metadata": {"path": str(project.folder)}}
    NotebookClient(made, timeout=240, kernel_name="python3", resources=place).execute()
    return [cell.outputs for cell in made.cells]


def html(output: Any) -> str:
    return str(output.get("data", {}).get("text/html", ""))


def test_a_run_draws_its_progress_and_its_result_is_a_table(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_modules("nbclient", "ipykernel", *FORMATS["onnx"].PACKAGES)
    home = os.pathsep.join(
        filter(None, [str(Path(edgekd.__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )
    monkeypatch.setenv("PYTHONPATH", home)
    run, result, stage, agreement = cells_of(project, CELLS)
    assert [each.output_type for each in run] == ["display_data"], run
    (progress,) = run  # One picture, drawn anew; nothing on stdout or stderr.
    for text in ("<progress", "distill", "3/3", "verify", "x86-cpu-onnx"):
        assert text in html(progress)
    assert "ships" in html(result[0])
    assert "x86-cpu-onnx" in html(result[0])
    (alone,) = stage
    assert "3/3" in html(alone)
    assert "sqnr_db" in html(agreement[-1])
