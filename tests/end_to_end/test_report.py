"""The report of a real run, in a real browser."""

from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgekd
from edgekd.formats import FORMATS
from tests.support.project import DATA, MODELS, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules, need_program

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
    """A page's external references, scripts, the descriptions of its charts, and its links."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.described: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        self.scripts += tag == "script" or any(name.startswith("on") for name in given)
        self.links += [given["href"]] if tag == "a" else []
        self.ids += [given["id"]] if "id" in given else []
        for name in ("src", "href", "xlink:href", "data", "action"):
            if given.get(name, "").startswith(("http", "//", "file")):
                self.fetched.append(given[name])
        if tag == "svg":
            self.described.append(given.get("aria-label", ""))


def test_the_report_of_a_run_loads_nothing_and_has_no_script(run: edgekd.RunResult) -> None:
    text = (run.folder / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.fetched == []
    assert page.scripts == 0
    assert len(page.described) >= 5
    assert all(page.described)
    assert not re.search(r"url\(|@import", text)
    for heading in ("Verdict by target", "Teacher and student", "Trade-offs", "Latency",
                    "All candidates", "Training", "Environment", "Terms"):  # fmt: skip
        assert heading in text
    assert page.links
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    rows = json.loads((run.folder / "result.json").read_text())["rows"]
    assert f"{rows[0]['agreement']['metric']:.4f}" in text


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    program = need_program("chromium")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "tools")
        import browser
    with browser.browser(program) as started:
        yield started


WIDER = "(each) => !each.closest('figure details') && each.scrollWidth > each.clientWidth + 1"
CONTRASTS = """
(() => {
  const light = (colour) => {
    const parts = colour.match(/[0-9.]+/g).map(Number).slice(0, 3).map((each) => {
      const share = each / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]; };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walk.nextNode()) {
    const holder = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || holder.tagName == "STYLE") continue;
    const style = getComputedStyle(holder);
    const ink = light(holder.closest("svg") ? style.fill : style.color);
    const [low, high] = [ink, paper].sort((one, other) => one - other);
    found.push([(high + 0.05) / (low + 0.05), walk.currentNode.data]); }
  return found.sort((one, other) => one[0] - other[0]); })()
"""
"""The contrast of every text with the background, the lowest first (WCAG 2.2, 1.4.3)."""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_the_whole_report_with_enough_contrast(
    run: edgekd.RunResult, chromium: Any, width: int, dark: bool
) -> None:
    page = run.folder / "report.html"
    chromium.events.clear()
    chromium.show(page, width, dark=dark)
    assert chromium.events == [page.resolve().as_uri()]
    # A table that is wider than a phone scrolls by itself; the page does not.
    assert chromium.value("document.documentElement.scrollWidth") == width
    cut = f"[...document.querySelectorAll('.wide')].filter({WIDER}).map((each) => each.ariaLabel)"
    assert width < 1200 or chromium.value(cut) == []
    contrasts = chromium.value(CONTRASTS)
    assert len(contrasts) > 100
    assert contrasts[0][0] >= 4.5, contrasts[0]
    paper = chromium.value("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(22, 22, 22)") is dark
    assert chromium.picture()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_verdict_comes_first(run: edgekd.RunResult, chromium: Any) -> None:
    chromium.show(run.folder / "report.html", 1200)
    heads = chromium.value("[...document.querySelectorAll('h1, h2')].map((each) => each.innerText)")
    assert "passed" in heads[0]
    assert heads[1] == "Verdict by target"
    assert heads[-1] == "Terms"
    # A word says it, not only a colour.
    ends = chromium.value("[...document.querySelectorAll('.end')].map((each) => each.innerText)")
    assert len(ends) == 1
    assert "ships" in ends[0]


def test_no_text_of_a_chart_is_cut_off(run: edgekd.RunResult, chromium: Any) -> None:
    chromium.show(run.folder / "report.html", 1200)
    cut = """[...document.querySelectorAll('svg')].flatMap((svg) => {
      const whole = svg.getBoundingClientRect();
      return [...svg.querySelectorAll('text')].filter((text) => {
        const box = text.getBoundingClientRect();
        return box.width && (box.left < whole.left - 1 || box.right > whole.right + 1
          || box.top < whole.top - 1 || box.bottom > whole.bottom + 1); })
        .map((text) => text.textContent); })"""
    assert chromium.value(cut) == []


def test_the_printed_report_is_not_cut_off(run: edgekd.RunResult, chromium: Any) -> None:
    chromium.show(run.folder / "report.html", 700)
    chromium.call("Emulation.setEmulatedMedia", media="print")
    cut = f"[...document.querySelectorAll('.wide')].filter({WIDER}).map((each) => each.ariaLabel)"
    assert chromium.value(cut) == []
    recipe = "document.querySelector('.again details:last-of-type pre').getBoundingClientRect()"
    assert chromium.value(f"{recipe}.height") > 100
    assert chromium.pdf()[:5] == b"%PDF-"
    chromium.call("Emulation.setEmulatedMedia", media="")


def test_the_report_has_the_ratios_of_the_student_to_its_teacher(run: edgekd.RunResult) -> None:
    text = (run.folder / "report.html").read_text()
    result = json.loads((run.folder / "result.json").read_text())
    teacher, student = result["teacher"], result["student"]
    for key in ("metric", "parameters", "macs", "eager_ms"):
        assert f"{student[key] / teacher[key]:.3f}</td>" in text


def test_runs_are_compared_and_names_are_escaped(
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
    assert "Comparison of runs" in text
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_a_folder_without_a_run_is_an_error(tmp_path: Path, edgekd_cli: Any) -> None:
    said = edgekd_cli("report", tmp_path)
    assert said.code == 2
    assert_five_parts(said.err)


def test_the_tool_makes_pictures_for_the_documentation(
    run: edgekd.RunResult, chromium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_modules("PIL")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    import report_pictures

    pictures = report_pictures.pictures(chromium, run.folder, tmp_path, tmp_path, phone=True)
    assert [path.name for path in pictures] == ["tiny.webp", "tiny-phone.webp"]
    for path, width in zip(pictures, (1200, 390), strict=True):
        data = path.read_bytes()
        assert data[:4] == b"RIFF"
        assert len(data) < 150_000
        # Lossless WebP: 14 bits of the width minus one, after the signature byte.
        assert 1 + (int.from_bytes(data[21:23], "little") & 0x3FFF) == width
