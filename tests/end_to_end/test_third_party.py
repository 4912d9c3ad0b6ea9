"""A device connection and a bundle kind of another package, found by their entry points alone."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import Project, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

DEVICE = '''
"""Boxes: box://NAME, a folder of this machine that stands for a device."""

import json, os, shutil, subprocess, sys
from pathlib import Path
from urllib.parse import urlsplit

OPTIONS = {"rack": "NUMBER"}


def run_agent(url, folder, *, timeout_s):
    name = urlsplit(url).netloc
    box = Path(os.environ["BOXES"]) / name
    shutil.rmtree(box, ignore_errors=True)
    shutil.copytree(folder, box)
    argv = [sys.executable, "agent.py", "."]
    subprocess.run(argv, cwd=box, timeout=timeout_s, check=True)
    report = json.loads((box / "report.json").read_text())
    report["device"]["model"] = "box " + name
    (folder / "report.json").write_text(json.dumps(report))
    for outputs in box.glob("outputs-*.npz"):
        shutil.copyfile(outputs, folder / outputs.name)
'''

BUNDLE = '''
"""A tar archive of the models, with a list of them."""

import io, json, tarfile

FORMATS = ("onnx",)
OPTIONS = {"vendor": "name in the list of contents"}


def pack(bundle, manifest, out):
    options = manifest.options.get("crate", {})
    listing = {"vendor": options.get("vendor", "nobody"), "models": []}
    with tarfile.open(out / f"{manifest.name}.tar", "w") as archive:
        for model in manifest.models:
            for file in model.files:
                archive.add(bundle / file.path, file.path)
            listing["models"].append({"target": model.target, "entry": model.entry})
        data = json.dumps(listing).encode()
        entry = tarfile.TarInfo("contents.json")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
'''


@pytest.fixture(autouse=True)
def boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The installed package: two modules and their entry points. Returns the folder of boxes."""
    site = tmp_path / "site"
    info = site / "acme_edge-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "acme_box.py").write_text(DEVICE)
    (site / "acme_crate.py").write_text(BUNDLE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-edge\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[edgekd.devices]\nbox = acme_box\n[edgekd.bundles]\ncrate = acme_crate\n"
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("BOXES", str(tmp_path / "boxes"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "boxes"


def recipe(device: str, **bundle: Any) -> dict[str, Any]:
    """A recipe for `device` whose bundle has the added kind."""
    return {
        **tiny_recipe(),
        "version": "1.0.0",
        "targets": [{"name": "x86-cpu-onnx", "device": device}],
        "bundle": {"kinds": ["crate"], **bundle},
    }


def contents(package: Path) -> Any:
    """The list of contents in the package that the added kind wrote."""
    with tarfile.open(package / "tiny.tar") as archive:
        file = archive.extractfile("contents.json")
        assert file is not None
        listing = json.load(file)
        for model in listing["models"]:
            assert archive.getmember(model["entry"]).size > 0
    return listing


def test_a_recipe_uses_the_device_and_the_bundle_kind_of_another_package(
    project: Project, edgekd_cli: Any, boxes: Path
) -> None:
    need_modules("onnxruntime")
    path = project.write(recipe("box://attic?rack=3", crate={"vendor": "ACME"}))
    runs = project.folder / "runs"
    result = edgekd_cli("run", path, "--out", runs, "--json")
    assert result.code == 0, result.err
    row = result.json["rows"][0]
    assert row["measurement"]["device"]["model"] == "box attic"
    assert row["evidence"] == "device"
    assert (boxes / "attic" / "report.json").exists()
    latest = runs / "tiny" / "latest"
    listing = contents(latest / "bundle" / "crate")
    assert listing["vendor"] == "ACME"
    assert [model["target"] for model in listing["models"]] == ["x86-cpu-onnx"]

    # The options travel in the bundle, so that it can be packed again without the recipe.
    out = project.folder / "again"
    packed = edgekd_cli("bundle", latest, "--kind", "crate", "--out", out)
    assert packed.code == 0, packed.err
    assert contents(out)["vendor"] == "ACME"
    unknown = edgekd_cli("bundle", latest, "--kind", "crates")
    assert unknown.code == 2
    assert "crate" in unknown.err

    # The resolved recipe of the run is a valid recipe.
    resolved = project.folder / "resolved.toml"
    resolved.write_text((latest / "recipe.toml").read_text())
    checked = edgekd_cli("check", resolved)
    assert checked.code == 0, checked.err

    model = next(latest.glob("artifacts/*/*/*.onnx"))
    timed = edgekd_cli("benchmark", model, "--device", "box://cellar", "--quick", "--json")
    assert timed.code == 0, timed.err
    assert "box cellar" in timed.out


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"device": "boxx://attic"}, ["box://..."]),
        ({"device": "box://attic?shelf=3"}, ["shelf", "?rack=NUMBER"]),
        ({"kinds": ["crates"]}, ["crate", "did you mean 'crate'?"]),
        ({"crate": {"vendr": "ACME"}}, ["bundle.crate.vendr", "did you mean 'vendor'?"]),
        ({"krate": {"vendor": "ACME"}}, ["bundle.krate"]),
    ],
    ids=["scheme", "device option", "kind", "kind's option", "table of no kind"],
)
def test_an_error_names_what_another_package_adds(
    project: Project, edgekd_cli: Any, change: dict[str, Any], parts: list[str]
) -> None:
    options = {**change}
    path = project.write(recipe(options.pop("device", "box://attic"), **options))
    result = edgekd_cli("check", path)
    assert result.code == 2
    assert_five_parts(result.err)
    for part in parts:
        assert part in result.err


def test_a_connection_that_fails_ends_its_own_target_and_the_others_go_on(
    project: Project, edgekd_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_modules("onnxruntime")
    monkeypatch.delitem(sys.modules, "acme_box", raising=False)  # Of an earlier test.
    broken = (
        DEVICE + '\n\ndef run_agent(url, folder, *, timeout_s):\n    raise KeyError("no power")\n'
    )
    Path(project.folder / "site" / "acme_box.py").write_text(broken)
    document = tiny_recipe()
    # A profile of one's own: a target may appear once, and both are to run here.
    profile = Path("targets/x86-cpu-onnx.toml").read_text(encoding="utf-8")
    (project.folder / "other.toml").write_text(profile)
    document["targets"] = [
        {"name": "x86-cpu-onnx"},
        {"name": str(project.folder / "other.toml"), "device": "box://attic", "required": False},
    ]
    result = edgekd_cli("run", project.write(document), "--out", project.folder / "runs", "--json")
    assert result.code == 0, result.err
    rows = {row["target"]: row for row in result.json["rows"]}
    good, bad = rows["x86-cpu-onnx"], rows["other"]
    assert good["outcome"] == "passed"
    assert bad["outcome"] == "unavailable"
    assert "The device connection 'box' of an installed package failed" in bad["detail"]
    assert "no power" in bad["detail"]
