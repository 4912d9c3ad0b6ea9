"""The report of a real run, in a real browser."""

from __future__ import annotations

import html.parser
import json
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import DATA, MODELS, assert_five_parts, tiny_recipe
from needs import need_modules, need_program

import edgekd
from edgekd.formats import FORMATS

pytestmark = pytest.mark.converter

NASTY = "<script>alert(1)</script>.net"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> edgekd.RunResult:
    need_modules("vl_convert", *FORMATS["onnx"].PACKAGES)
    import tomli_w

    folder = tmp_path_factory.mktemp("report")
    (folder / "data.py").write_text(DATA)
    (folder / "models.py").write_text(MODELS)
    (folder / "fast.toml").write_text(
        'format = "onnx"\nschemes = ["fp32", "int8"]\nmachine = "x86_64"\ndevice = "local"\n'
    )
    document = tiny_recipe()
    document["quantize"]["schemes"] = ["fp32", "int8"]
    document["data"]["options"] = {"classes": 3}
    budget = {"latency_p90_ms": 50.0, "size_bytes": 200_000}
    document["targets"] = [{"name": "fast.toml", "budget": budget}]
    (folder / "recipe.toml").write_text(tomli_w.dumps(document))
    return edgekd.run(folder / "recipe.toml", out=folder / "runs")


class Page(html.parser.HTMLParser):
    """What a page would fetch or run, its pictures' descriptions, and its open elements."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.described: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        self.scripts += tag == "script" or any(name.startswith("on") for name in given)
        for name in ("src", "href", "xlink:href", "data", "action"):
            if given.get(name, "").startswith(("http", "//", "file")):
                self.fetched.append(given[name])
        if tag == "svg":
            self.described.append(given.get("aria-label", ""))


def test_a_run_ends_in_a_page_that_fetches_and_runs_nothing(run: edgekd.RunResult) -> None:
    text = (run.folder / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.fetched == []
    assert page.scripts == 0
    assert len(page.described) >= 5
    assert all(page.described)
    assert not re.search(r"url\(|@import", text)
    for heading in ("Verdict by target", "Teacher and student", "What accuracy costs", "Latency",
                    "Every candidate", "Training", "Where it ran"):  # fmt: skip
        assert heading in text
    rows = json.loads((run.folder / "result.json").read_text())["rows"]
    assert f"{rows[0]['agreement']['metric']:.4f}" in text


@pytest.mark.parametrize("width", [1200, 420])
def test_a_browser_shows_it_without_complaint(
    run: edgekd.RunResult, tmp_path: Path, width: int
) -> None:
    chromium = need_program("chromium")
    picture = tmp_path / "page.png"
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
             f"--window-size={max(width, 500)},2000", f"--user-data-dir={tmp_path}/profile",
             f"--screenshot={picture}"]  # fmt: skip
    done = subprocess.run(
        [chromium, *words, f"file://{run.folder}/report.html"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    found = struct.unpack(">II", picture.read_bytes()[16:24])
    assert found == (max(width, 500), 2000)
    assert picture.stat().st_size > 20_000


def test_runs_stand_side_by_side_and_names_are_only_names(
    run: edgekd.RunResult, tmp_path: Path, edgekd_cli: Any
) -> None:
    other = tmp_path / "other"
    import shutil

    shutil.copytree(run.folder, other)
    result = json.loads((other / "result.json").read_text())
    result["name"] = NASTY
    (other / "result.json").write_text(json.dumps(result))
    out = tmp_path / "both.html"
    said = edgekd_cli("report", run.folder, other, "--out", out, "--json")
    assert said.code == 0, said.err
    text = out.read_text()
    assert "Side by side" in text
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_what_is_no_run_is_told(tmp_path: Path, edgekd_cli: Any) -> None:
    said = edgekd_cli("report", tmp_path)
    assert said.code == 2
    assert_five_parts(said.err)
