"""A run's bundle in the hands of those who take it: Maven, javac, a JVM, aapt, CMake, pip."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DATA, MODELS, assert_five_parts, tiny_recipe
from needs import need_modules, need_program

import edgekd
from edgekd import packing
from edgekd.bundles.identifiers import quoted
from edgekd.bundles.manifest import read_manifest
from edgekd.evidence import Outcome
from edgekd.formats import FORMATS

pytestmark = pytest.mark.converter

LABELS = ["cat", 'a "dog"', "Vögel"]


def recipe() -> dict[str, Any]:
    document = tiny_recipe()
    document["version"] = "1.2.3"
    document["targets"] = [
        {"name": f"x86-cpu-{name}"} for name in ("onnx", "openvino", "litert")
    ] + [{"name": "iphone-15-coreml", "required": False}]
    document["bundle"] = {
        "kinds": ["folder", "android", "swift", "linux"],
        "labels": LABELS,
        "licences": {"model": "Apache-2.0"},
        "android": {"group": "com.acme.models"},
    }
    return document


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> edgekd.RunResult:
    for module in FORMATS.values():
        need_modules(*module.PACKAGES)
    need_program("javac")
    import tomli_w

    folder = tmp_path_factory.mktemp("bundle")
    (folder / "data.py").write_text(DATA)
    (folder / "models.py").write_text(MODELS)
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe()))
    result = edgekd.run(folder / "recipe.toml", out=folder / "runs")
    assert result.passed
    return result


def test_a_run_makes_every_kind_and_the_golden_vectors_hold(run: edgekd.RunResult) -> None:
    assert set(run.bundles) == {"folder", "android", "swift", "linux"}
    manifest = read_manifest(run.bundles["folder"])
    assert len(manifest.models) == 4
    assert manifest.labels == LABELS
    checked = packing.check(run.bundles["folder"])
    assert [entry.outcome for entry in checked] == [Outcome.PASSED] * 4
    assert (run.folder / "junit.xml").is_file()
    assert "x86-cpu-onnx" in (run.folder / "summary.md").read_text()


def test_a_golden_vector_that_does_not_hold_is_told(
    run: edgekd.RunResult, tmp_path: Path, edgekd_cli: Any
) -> None:
    from edgekd.bundles import folder

    bundle = tmp_path / "changed"
    shutil.copytree(run.bundles["folder"], bundle)
    manifest = read_manifest(bundle)
    path = bundle / manifest.models[0].golden.outputs["output"].path
    values = np.frombuffer(path.read_bytes(), "<f4").copy()
    values[0] += 0.01
    path.write_bytes(values.tobytes())
    # Whoever changed it wrote the digests again.
    for made in ("labels.txt", "MODEL_CARD.md", "components.cdx.json", "manifest.schema.json",
                 "manifest.json", "SHA256SUMS"):  # fmt: skip
        (bundle / made).unlink()
    folder.finish(bundle, manifest.model_copy(update={"other_files": []}))
    said = edgekd_cli("bundle", bundle, "--check")
    assert said.code == 7
    assert_five_parts(said.err)
    assert "x86-cpu-onnx: disagrees" in said.out
    assert "x86-cpu-litert: passed" in said.out


def test_every_file_says_itself_what_it_is(run: edgekd.RunResult) -> None:
    import onnx
    import openvino
    from ai_edge_litert.tools import flatbuffer_utils
    from coremltools.proto import Model_pb2

    bundle = run.bundles["folder"]
    entry = {model.format: bundle / model.entry for model in read_manifest(bundle).models}
    props = {p.key: p.value for p in onnx.load(entry["onnx"]).metadata_props}
    assert (props["version"], props["labels"]) == ("1.2.3", "\n".join(LABELS))
    read = openvino.Core().read_model(entry["openvino"])
    assert read.get_rt_info(["model_info", "labels"]).astype(str).split("\n") == LABELS
    model = flatbuffer_utils.read_model(str(entry["litert"]))
    told = {e.name.decode(): bytes(model.buffers[e.buffer].data) for e in model.metadata}
    assert told["labels"].decode().split("\n") == LABELS
    file = entry["coreml"] / "Data/com.apple.CoreML/model.mlmodel"
    metadata = Model_pb2.Model.FromString(file.read_bytes()).description.metadata
    assert (metadata.versionString, metadata.license) == ("1.2.3", "Apache-2.0")
    assert metadata.userDefined["classes"] == ",".join(LABELS)


def test_the_same_run_gives_the_same_bytes(run: edgekd.RunResult, tmp_path: Path) -> None:
    from edgekd.store import path_digest

    for kind in ("android", "swift", "linux"):
        again = packing.pack(run.bundles["folder"], kind, tmp_path / kind)
        assert path_digest(again) == path_digest(run.bundles[kind])


PROGRAM = """
import com.acme.models.{package}.{name};
import java.io.FileInputStream;
import java.io.IOException;
import java.util.Arrays;

public class Main {{
  public static void main(String[] words) throws IOException {{
    int size = {name}.load(new FileInputStream(words[0])).capacity();
    System.out.println(size == {name}.SIZE_BYTES);
    System.out.println(Arrays.toString({name}.inputNames()) + {name}.inputShapes()[0][1]);
    System.out.println(Arrays.equals({name}.labels(), new String[] {{{labels}}}));
    try {{
      {name}.load(new FileInputStream(words[1]));
    }} catch (IOException refused) {{
      System.out.println("refused");
    }}
  }}
}}
"""


def test_maven_resolves_the_archive_and_a_jvm_reads_it(
    run: edgekd.RunResult, tmp_path: Path
) -> None:
    maven, javac, java = (need_program(name) for name in ("mvn", "javac", "java"))
    (tmp_path / "settings.xml").write_text(
        f"<settings><localRepository>{tmp_path}/local</localRepository><mirrors><mirror>"
        "<id>debian</id><mirrorOf>central</mirrorOf><url>file:///usr/share/maven-repo</url>"
        "</mirror></mirrors></settings>"
    )
    (tmp_path / "pom.xml").write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>app</groupId><artifactId>app</artifactId><version>1</version>"
        "<packaging>pom</packaging><repositories><repository><id>bundle</id>"
        f"<url>file://{run.bundles['android']}/maven</url>"
        "<releases><checksumPolicy>fail</checksumPolicy></releases></repository></repositories>"
        "<dependencies><dependency><groupId>com.acme.models</groupId>"
        "<artifactId>tiny-x86-cpu-litert</artifactId><version>1.2.3</version><type>aar</type>"
        "</dependency></dependencies></project>"
    )
    versions = Path("/usr/share/maven-repo/org/apache/maven/plugins/maven-dependency-plugin")
    newest = max(path.name for path in versions.iterdir())
    plugin = f"org.apache.maven.plugins:maven-dependency-plugin:{newest}:copy-dependencies"
    done = subprocess.run(
        [maven, "-B", "-q", "-s", "settings.xml", plugin, f"-DoutputDirectory={tmp_path}/out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(tmp_path / "out" / "tiny-x86-cpu-litert-1.2.3.aar") as archive:
        asset = "assets/tiny/x86-cpu-litert/model.tflite"
        assert archive.getinfo(asset).compress_type == zipfile.ZIP_STORED
        archive.extractall(tmp_path / "aar")
    classes = str(tmp_path / "aar" / "classes.jar")
    name = "TinyX86CpuLitert"
    labels = ", ".join(map(quoted, LABELS))
    (tmp_path / "Main.java").write_text(
        PROGRAM.format(package="tiny_x86_cpu_litert", name=name, labels=labels)
    )
    subprocess.run([javac, "-cp", classes, "Main.java"], cwd=tmp_path, check=True)
    (tmp_path / "bad").write_bytes((tmp_path / "aar" / asset).read_bytes() + b"x")
    said = subprocess.run(
        [java, "-cp", f"{classes}:{tmp_path}", "Main", f"aar/{asset}", "bad"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split("\n")[:4] == ["true", "[input]8", "true", "refused"]


def test_androids_packager_takes_the_archive(run: edgekd.RunResult, tmp_path: Path) -> None:
    aapt, zipalign = need_program("aapt"), need_program("zipalign")
    archive = next((run.bundles["android"] / "maven").rglob("*litert*.aar"))
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path)
    frame = "/usr/share/android-framework-res/framework-res.apk"
    words = ["-M", "AndroidManifest.xml", "-A", "assets", "-0", "tflite", "-I", frame]
    subprocess.run([aapt, "package", "-f", *words, "-F", "app.apk"], cwd=tmp_path, check=True)
    subprocess.run([zipalign, "4", "app.apk", "aligned.apk"], cwd=tmp_path, check=True)
    subprocess.run([zipalign, "-c", "4", "aligned.apk"], cwd=tmp_path, check=True)
    told = subprocess.run(
        [aapt, "list", "aligned.apk"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert "assets/tiny/x86-cpu-litert/model.tflite" in told.stdout


CMAKE = """
cmake_minimum_required(VERSION 3.13)
project(app C)
find_package(tiny 1.2 REQUIRED)
add_executable(app main.c)
target_link_libraries(app PRIVATE tiny::model)
target_compile_definitions(app PRIVATE MODEL="${tiny_MODEL_TINY_X86_CPU_ONNX}")
tiny_install(DESTINATION share/app)
"""

MAIN = """
#include <stdio.h>
#include "tiny.h"

int main(void) {
  int shape[] = TINY_X86_CPU_ONNX_MODEL_INPUT_0_SHAPE;
  FILE *file = fopen(MODEL, "rb");
  if (!file) return 1;
  fseek(file, 0, SEEK_END);
  printf("%d %d %s\\n", ftell(file) == TINY_X86_CPU_ONNX_MODEL_BYTES, shape[1], tiny_labels[1]);
  return fclose(file);
}
"""


def test_cmake_finds_the_package_and_a_program_reads_the_model(
    run: edgekd.RunResult, tmp_path: Path
) -> None:
    cmake = need_program("cmake")
    (tmp_path / "CMakeLists.txt").write_text(CMAKE)
    (tmp_path / "main.c").write_text(MAIN)
    prefix = run.bundles["linux"] / "tiny-1.2.3"
    build = str(tmp_path / "build")
    words = [f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_INSTALL_PREFIX={tmp_path}/installed"]
    subprocess.run(
        [cmake, "-S", str(tmp_path), "-B", build, *words], check=True, capture_output=True
    )
    subprocess.run([cmake, "--build", build], check=True, capture_output=True)
    said = subprocess.run([f"{build}/app"], check=True, capture_output=True, text=True)
    assert said.stdout == f"1 8 {LABELS[1]}\n"
    subprocess.run([cmake, "--install", build], check=True, capture_output=True)
    installed = tmp_path / "installed/share/app/models/x86-cpu-onnx/model.onnx"
    assert installed.is_file()
    (tmp_path / "CMakeLists.txt").write_text(CMAKE.replace("tiny 1.2", "tiny 2.0"))
    refused = subprocess.run(
        [cmake, "-S", str(tmp_path), "-B", f"{build}2", *words], capture_output=True, text=True
    )
    assert refused.returncode != 0
    assert "1.2.3" in refused.stderr


GOLDEN = """
import numpy, onnxruntime, tiny
model = next(m for m in tiny.manifest()["models"] if m["target"] == "x86-cpu-onnx")
session = onnxruntime.InferenceSession(str(tiny.path("x86-cpu-onnx")))
spec = model["inputs"][0]
given = numpy.fromfile(tiny.HERE / model["golden"]["inputs"][spec["name"]], spec["dtype"])
expected = model["golden"]["outputs"]["output"]
wanted = numpy.fromfile(tiny.HERE / expected["path"], "float32").reshape(8, -1)
for sample, want in zip(given.reshape(8, *spec["shape"]), wanted):
    got = session.run(["output"], {spec["name"]: sample})[0]
    assert abs(got[0] - want).max() <= expected["max_abs_error"]
print("golden", sorted(m["format"] for m in tiny.manifest()["models"]))
"""


def test_pip_installs_the_wheel_and_the_golden_vectors_hold(
    run: edgekd.RunResult, tmp_path: Path
) -> None:
    home = tmp_path / "venv"
    # The runtime is that of this environment: the wheel brings none.
    venv.create(home, with_pip=False, system_site_packages=False)
    wheel = next(run.bundles["linux"].glob("*.whl"))
    python = str(home / "bin" / "python")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "-q",
            "--no-index",
            str(wheel),
        ],
        check=True,
    )
    site = next(Path(sys.prefix).glob("lib/python*/site-packages"))
    said = subprocess.run(
        [python, "-c", GOLDEN], env={"PYTHONPATH": str(site)}, check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    assert said.stdout == "golden ['litert', 'onnx', 'openvino']\n"


WRONG: dict[str, dict[str, Any]] = {
    "version": {"version": "1.2.3-rc1"},
    "group": {"bundle.android": {}},
    "labels": {"bundle.labels": "none.txt"},
    "empty label": {"bundle.labels": ["a", "", "c"]},
    "too few labels": {"bundle.labels": ["a", "b"]},
    "preprocessing": {"bundle.preprocessing": {"imput": {"mean": [0.5]}}},
    "lengths": {"bundle.preprocessing": {"input": {"mean": [0.1, 0.2], "std": [1.0, 1.0, 1.0]}}},
    "no such key": {"bundle.preprocessing": {"input": {"means": [0.5]}}},
    "no target": {"targets": [{"name": "x86-cpu-openvino"}]},
    "no such kind": {"bundle.kinds": ["gradle"]},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_bundle_cannot_be_is_told_before_any_work(
    project: Any, edgekd_cli: Any, name: str
) -> None:
    document = recipe()
    for key, value in WRONG[name].items():
        place, _, last = key.rpartition(".")
        (document[place] if place else document)[last] = value
    path = project.write(document)
    at_run = name in ("too few labels", "preprocessing")
    words = ("run", path, "--out", project.folder / "runs") if at_run else ("check", path)
    said = edgekd_cli(*words)
    assert said.code == 2
    assert_five_parts(said.err)
    assert not list(project.folder.glob("runs/*/*/train"))


def test_the_run_of_an_app_is_a_json_document(run: edgekd.RunResult) -> None:
    written = json.loads((run.folder / "result.json").read_text())
    assert set(written["bundles"]) == set(run.bundles)
