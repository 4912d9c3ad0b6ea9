"""A run's bundle in its consumers: Maven, javac, a JVM, aapt, CMake, pip."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

import edgekd
from edgekd.bundles import pack as packing
from edgekd.bundles.manifest import read_manifest
from edgekd.bundles.quoting import quoted_java
from edgekd.evidence.outcome import Outcome
from edgekd.formats import FORMATS
from tests.support.project import DATA, MODELS, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules, need_program

pytestmark = pytest.mark.converter

LABELS = ["cat", 'a "dog"', "Vögel"]


def recipe() -> dict[str, Any]:
    document = tiny_recipe()
    document["version"] = "1.2.3"
    document["targets"] = [
        {"name": f"x86-cpu-{name}"} for name in ("onnx", "openvino", "litert", "ncnn")
    ] + [{"name": "iphone-15-coreml", "required": False}]
    document["bundle"] = {
        "kinds": ["folder", "archive", "android", "swift", "linux"],
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


def test_a_run_packs_every_kind_and_the_golden_vectors_pass(run: edgekd.RunResult) -> None:
    assert set(run.bundles) == {"folder", "archive", "android", "swift", "linux"}
    manifest = read_manifest(run.bundles["folder"])
    assert len(manifest.models) == 5
    assert manifest.labels == LABELS
    checked = packing.check(run.bundles["folder"])
    assert [entry.outcome for entry in checked] == [Outcome.PASSED] * 5
    assert (run.folder / "junit.xml").is_file()
    assert "x86-cpu-onnx" in (run.folder / "summary.md").read_text()


def test_a_failing_golden_vector_is_reported(
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
    # The digests are updated, as by somebody who hides the change.
    for artifact in ("labels.txt", "MODEL_CARD.md", "components.cdx.json", "manifest.schema.json",
                 "manifest.json", "SHA256SUMS"):  # fmt: skip
        (bundle / artifact).unlink()
    folder.finish(bundle, manifest.model_copy(update={"other_files": []}))
    result = edgekd_cli("bundle", bundle, "--check")
    assert result.code == 7
    assert_five_parts(result.err)
    assert "x86-cpu-onnx: disagrees" in result.out
    assert "x86-cpu-litert: passed" in result.out


def test_every_file_embeds_its_own_metadata(run: edgekd.RunResult) -> None:
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
    entries = {e.name.decode(): bytes(model.buffers[e.buffer].data) for e in model.metadata}
    assert entries["edgekd.target"] == b"x86-cpu-litert"
    metadata = entries["TFLITE_METADATA"]
    assert metadata[4:8] == b"M001"
    for text in (b"tiny", b"1.2.3", b"Apache-2.0", b"input", b"output", b"labels.txt"):
        assert text in metadata
    with zipfile.ZipFile(entry["litert"]) as behind:
        assert behind.read("labels.txt").decode().splitlines() == LABELS
    file = entry["coreml"] / "Data/com.apple.CoreML/model.mlmodel"
    metadata = Model_pb2.Model.FromString(file.read_bytes()).description.metadata
    assert (metadata.versionString, metadata.license) == ("1.2.3", "Apache-2.0")
    assert metadata.userDefined["classes"] == ",".join(LABELS)


def test_the_same_run_gives_the_same_bytes(run: edgekd.RunResult, tmp_path: Path) -> None:
    from edgekd.system.files import path_digest

    for kind in ("archive", "android", "swift", "linux"):
        again = packing.pack(run.bundles["folder"], kind, tmp_path / kind)
        assert path_digest(again) == path_digest(run.bundles[kind])


PROGRAM = """
import com.acme.models.{package}.{name};
import java.io.FileInputStream;
import java.io.IOException;
import java.util.Arrays;

public class Main {{
  public static void main(String[] files) throws IOException {{
    int size = {name}.load(new FileInputStream(files[0])).capacity();
    System.out.println(size == {name}.SIZE_BYTES);
    System.out.println(Arrays.toString({name}.inputNames()) + {name}.inputShapes()[0][1]);
    System.out.println(Arrays.equals({name}.labels(), new String[] {{{labels}}}));
    try {{
      {name}.load(new FileInputStream(files[1]));
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
    labels = ", ".join(map(quoted_java, LABELS))
    (tmp_path / "Main.java").write_text(
        PROGRAM.format(package="tiny_x86_cpu_litert", name=name, labels=labels)
    )
    subprocess.run([javac, "-cp", classes, "Main.java"], cwd=tmp_path, check=True)
    (tmp_path / "bad").write_bytes((tmp_path / "aar" / asset).read_bytes() + b"x")
    result = subprocess.run(
        [java, "-cp", f"{classes}:{tmp_path}", "Main", f"aar/{asset}", "bad"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split("\n")[:4] == ["true", "[input]8", "true", "refused"]


@pytest.mark.parametrize("name", ["aapt", "aapt2"])
def test_androids_packager_accepts_the_archive(
    run: edgekd.RunResult, tmp_path: Path, name: str
) -> None:
    aapt, zipalign = need_program(name), need_program("zipalign")
    archive = next((run.bundles["android"] / "maven").rglob("*litert*.aar"))
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path)
    frame = "/usr/share/android-framework-res/framework-res.apk"
    args = {
        "aapt": ["package", "-f", "-M", "AndroidManifest.xml", "-0", "tflite", "-F", "app.apk"],
        "aapt2": ["link", "--manifest", "AndroidManifest.xml", "-0", ".tflite", "-o", "app.apk"],
    }[name]
    subprocess.run([aapt, *args, "-A", "assets", "-I", frame], cwd=tmp_path, check=True)
    subprocess.run([zipalign, "4", "app.apk", "aligned.apk"], cwd=tmp_path, check=True)
    subprocess.run([zipalign, "-c", "4", "aligned.apk"], cwd=tmp_path, check=True)
    with zipfile.ZipFile(tmp_path / "aligned.apk") as app:
        model = app.getinfo("assets/tiny/x86-cpu-litert/model.tflite")
        assert model.compress_type == zipfile.ZIP_STORED
        assert app.read(model) == (tmp_path / model.filename).read_bytes()


STUBS = {
    "androidx/test/platform/app/InstrumentationRegistry": """
    package androidx.test.platform.app;
    public class InstrumentationRegistry {
      public static android.app.Instrumentation getInstrumentation() { return null; }
    }""",
    "android/app/Instrumentation": """
    package android.app;
    public class Instrumentation {
      public android.content.Context getContext() { return null; }
      public android.content.Context getTargetContext() { return null; }
    }""",
    "android/content/Context": """
    package android.content;
    public class Context {
      public android.content.res.AssetManager getAssets() { return null; }
    }""",
    "android/content/res/AssetManager": """
    package android.content.res;
    public class AssetManager {
      public java.io.InputStream open(String name) throws java.io.IOException { return null; }
    }""",
    "org/tensorflow/lite/Interpreter": """
    package org.tensorflow.lite;
    public class Interpreter {
      public Interpreter(java.nio.ByteBuffer model) {}
      public void runSignature(
          java.util.Map<String, Object> inputs, java.util.Map<String, Object> outputs) {}
    }""",
    "ai/onnxruntime/OnnxJavaType": """
    package ai.onnxruntime;
    public enum OnnxJavaType { FLOAT, DOUBLE, INT8, INT16, INT32, INT64, BOOL, UINT8 }""",
    "ai/onnxruntime/OrtException": """
    package ai.onnxruntime;
    public class OrtException extends Exception {}""",
    "ai/onnxruntime/OnnxValue": """
    package ai.onnxruntime;
    public interface OnnxValue extends AutoCloseable {}""",
    "ai/onnxruntime/OnnxTensor": """
    package ai.onnxruntime;
    public class OnnxTensor implements OnnxValue {
      public static OnnxTensor createTensor(
          OrtEnvironment environment, java.nio.ByteBuffer data, long[] shape, OnnxJavaType type)
          throws OrtException { return null; }
      public java.nio.ByteBuffer getByteBuffer() { return null; }
      public void close() {}
    }""",
    "ai/onnxruntime/OrtSession": """
    package ai.onnxruntime;
    public class OrtSession {
      public static class Result {
        public java.util.Optional<OnnxValue> get(String name) { return null; }
      }
      public Result run(java.util.Map<String, ? extends OnnxTensor> inputs) throws OrtException {
        return null;
      }
    }""",
    "ai/onnxruntime/OrtEnvironment": """
    package ai.onnxruntime;
    public class OrtEnvironment {
      public static OrtEnvironment getEnvironment() { return null; }
      public OrtSession createSession(byte[] model) throws OrtException { return null; }
    }""",
}
"""Android and its runtimes are no Debian packages: what their documentation declares, to compile
against; nothing of it runs."""


def test_the_instrumented_tests_compile(run: edgekd.RunResult, tmp_path: Path) -> None:
    javac = need_program("javac")
    junit = Path("/usr/share/java/junit4.jar")
    if not junit.exists():
        need_program("junit4")
    for name, source in STUBS.items():
        path = tmp_path / f"{name}.java"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    tests = sorted((run.bundles["android"] / "instrumented-test").rglob("*GoldenTest.java"))
    assert len(tests) == 2
    for number, archive in enumerate(run.bundles["android"].rglob("*.aar")):
        with zipfile.ZipFile(archive) as opened:
            (tmp_path / f"{number}.jar").write_bytes(opened.read("classes.jar"))
    args = [javac, "-Xlint:all,-try,-serial", "-Werror", "-d", f"{tmp_path}/out", "-cp"]
    args += [f"{junit}:{tmp_path}/0.jar:{tmp_path}/1.jar:{tmp_path}"]
    done = subprocess.run(
        [*args, "-sourcepath", str(tmp_path), *map(str, tests)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


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
    args = [f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_INSTALL_PREFIX={tmp_path}/installed"]
    subprocess.run(
        [cmake, "-S", str(tmp_path), "-B", build, *args], check=True, capture_output=True
    )
    subprocess.run([cmake, "--build", build], check=True, capture_output=True)
    result = subprocess.run([f"{build}/app"], check=True, capture_output=True, text=True)
    assert result.stdout == f"1 8 {LABELS[1]}\n"
    subprocess.run([cmake, "--install", build], check=True, capture_output=True)
    installed = tmp_path / "installed/share/app/models/x86-cpu-onnx/model.onnx"
    assert installed.is_file()
    # Neither a later version, nor another major version, whose inputs may differ.
    for wanted in ("2.0", "0.9"):
        (tmp_path / "CMakeLists.txt").write_text(CMAKE.replace("tiny 1.2", f"tiny {wanted}"))
        refused = subprocess.run(
            [cmake, "-S", str(tmp_path), "-B", f"{build}{wanted}", *args],
            capture_output=True,
            text=True,
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


def test_pip_installs_the_wheel_and_the_golden_vectors_pass(
    run: edgekd.RunResult, tmp_path: Path
) -> None:
    home = tmp_path / "venv"
    # The runtime is that of this environment: the wheel has none.
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
    result = subprocess.run(
        [python, "-c", GOLDEN], env={"PYTHONPATH": str(site)}, check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    assert result.stdout == "golden ['litert', 'ncnn', 'onnx', 'openvino']\n"


WRONG: dict[str, dict[str, Any]] = {
    "version": {"version": "1.2.3-rc1"},
    "group": {"bundle.android": {}},
    "java's own word": {"bundle.android": {"group": "com.int.models"}},
    "group of capitals": {"bundle.android": {"group": "Com.models"}},
    "what XML cannot hold": {"bundle.description": "rings a \a"},
    "licence": {"bundle.licences": {"data": "MIT\0"}},
    "label": {"bundle.labels": ["a", "b\u2028", "c"]},
    "done twice": {
        "export.inputs": {"input": {"dtype": "float32", "layout": "same", "scale": 0.5}},
        "bundle.preprocessing": {"input": {"scale": 0.5}},
    },
    "target": {"targets": [{"name": "my board.toml"}]},
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
def test_an_invalid_bundle_is_refused_before_any_work(
    project: Any, edgekd_cli: Any, name: str
) -> None:
    document = recipe()
    for key, value in WRONG[name].items():
        table, _, last = key.rpartition(".")
        (document[table] if table else document)[last] = value
    (project.folder / "my board.toml").write_text(
        'format = "onnx"\nschemes = ["fp32"]\nmachine = "x86_64"\ndevice = "local"\n'
    )
    path = project.write(document)
    at_run = name in ("too few labels", "preprocessing")
    args = ("run", path, "--out", project.folder / "runs") if at_run else ("check", path)
    result = edgekd_cli(*args)
    assert result.code == 2
    assert_five_parts(result.err)
    at = "bundle.kinds" if name == "no target" else next(iter(WRONG[name]))
    at = at.replace("export.inputs", "bundle.preprocessing")
    assert at in result.err
    assert not list(project.folder.glob("runs/*/*/train"))


def test_a_file_changed_by_its_metadata_is_not_bundled(
    project: Any, edgekd_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's outputs are compared before and after metadata is embedded."""
    import onnx

    from edgekd.formats.capabilities import embed

    def careless(name: str, path: Path, *options: Any) -> bool:
        model = onnx.load(path)
        weights = max(model.graph.initializer, key=lambda each: len(each.raw_data))
        weights.raw_data = weights.raw_data[4:] + weights.raw_data[:4]
        onnx.save(model, path)
        return embed(name, path, *options)

    monkeypatch.setattr("edgekd.pipeline.stages.bundle.embed", careless)
    document = tiny_recipe()
    document |= {"version": "1.0.0", "bundle": {}}
    result = edgekd_cli("run", project.write(document), "--out", project.folder / "runs")
    assert result.code == 5
    assert_five_parts(result.err)
    assert "different values of output" in result.err


def test_the_run_of_an_app_is_a_json_document(run: edgekd.RunResult) -> None:
    written = json.loads((run.folder / "result.json").read_text())
    assert set(written["bundles"]) == set(run.bundles)


def test_benchmark_writes_what_ci_systems_show(
    run: edgekd.RunResult, tmp_path: Path, edgekd_cli: Any
) -> None:
    bundle = run.bundles["folder"]
    entry = {model.format: bundle / model.entry for model in read_manifest(bundle).models}
    xml, markdown = tmp_path / "junit.xml", tmp_path / "summary.md"
    args = ["--quick", "--budget", "size_bytes=1", "--junit", xml, "--summary", markdown]
    result = edgekd_cli("benchmark", entry["onnx"], *args)
    assert result.code == 8
    suite = ElementTree.parse(xml).getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    assert "| over-budget |" in markdown.read_text()
    assert "size" in markdown.read_text()


TOKENS = """
from torch import nn


def student():
    return nn.Sequential(nn.Embedding(16, 6), nn.Flatten(), nn.Linear(24, 3))
"""
TEXTS = """
import torch
from torch.utils.data import TensorDataset
import edgekd


def texts():
    generator = torch.Generator().manual_seed(7)

    def split(n):
        ids = torch.randint(0, 16, (n, 4), generator=generator)
        return TensorDataset(ids, ids[:, 0] % 3)

    return edgekd.Data(train=split(120), validation=split(40), test=split(40))
"""


def test_the_manifest_has_the_files_own_dtypes(project: Any, edgekd_cli: Any) -> None:
    """64-bit integers are 32-bit in LiteRT and Core ML, and an app must pass 32-bit ones."""
    from coremltools.proto import Model_pb2

    need_program("javac")
    (project.folder / "models.py").write_text(TOKENS)
    (project.folder / "data.py").write_text(TEXTS)
    document = recipe()
    del document["teacher"]
    document["data"]["load"] = "data.py:texts"
    document["distill"]["losses"] = [{"method": "hard", "weight": 1.0}]
    document["export"]["outputs"] = "probabilities"
    document["targets"] = [{"name": "x86-cpu-litert"}, {"name": "x86-cpu-onnx"},
                           {"name": "iphone-15-coreml", "required": False}]  # fmt: skip
    document["bundle"]["labels"] = ["a", "b", "c"]
    out = project.folder / "runs"
    result = edgekd_cli("run", project.write(document), "--out", out)
    assert result.code == 0, result.err
    bundle = packing.find(out / "tiny" / "latest")
    models = {model.format: model for model in read_manifest(bundle).models}
    types = {name: model.inputs[0].dtype for name, model in models.items()}
    assert types == {"litert": "int32", "onnx": "int64", "coreml": "int32"}
    assert {model.outputs[0].meaning for model in models.values()} == {"probabilities"}
    for name, size in (("litert", 4), ("onnx", 8)):
        golden = bundle / next(iter(models[name].golden.inputs.values()))
        assert golden.stat().st_size == 8 * 4 * size
    checked = packing.check(bundle)
    assert [entry.outcome for entry in checked] == [Outcome.PASSED] * 3
    # Core ML adds the name of the class to the outputs.
    file = bundle / models["coreml"].entry / "Data/com.apple.CoreML/model.mlmodel"
    description = Model_pb2.Model.FromString(file.read_bytes()).description
    assert description.predictedFeatureName == "classLabel"
    assert [each.name for each in description.output] == [
        "output", "classLabel", "classLabel_probs",
    ]  # fmt: skip


JOBS = Path(__file__).parents[2] / "tools"


def test_the_jobs_of_ci_systems_run(run: edgekd.RunResult, tmp_path: Path) -> None:
    """Run their lines in a shell, without pip: for a first release and for a changed interface."""
    steps = yaml.safe_load((JOBS / "github-actions.yml").read_text())["jobs"]["model"]["steps"]
    assert all(set(step) <= {"name", "if", "run", "uses", "with"} for step in steps)
    released = "hashFiles('released.zip') != ''"
    assert {step.get("if") for step in steps} == {None, "always()", released}
    ours = [step["run"] for step in steps if "run" in step]
    job = yaml.safe_load((JOBS / "gitlab-ci.yml").read_text())["model"]
    theirs = job["script"]
    assert {theirs[0], *theirs[1:3]} < {*ours}  # the same commands except for the comparison
    assert theirs[3] == f"if [ -f released.zip ]; then {ours[-1]}; fi"

    project = run.folder.parents[2]
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "edgekd").write_text(f'#!/bin/sh\nexec {sys.executable} -m edgekd.cli "$@"\n')
    (commands / "edgekd").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(edgekd.__file__).parents[1]),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "shown.md"),
    }

    def code(line: str) -> int:
        args = ["bash", "-e", "-c", line]
        return subprocess.run(args, cwd=project, env=environment).returncode

    assert [code(line) for line in ours[1:-1]] == [0, 0, 0]
    assert "| x86-cpu-onnx | fp32 | passed |" in (tmp_path / "shown.md").read_text()
    uploaded = next(step for step in steps if "upload-artifact" in step.get("uses", ""))
    kept = [*uploaded["with"]["path"].split(), *job["artifacts"]["paths"]]
    for path in [*kept, job["artifacts"]["reports"]["junit"]]:
        assert list(project.glob(path.rstrip("/"))), path
    assert code(theirs[3]) == 0
    # The previous release has other inputs.
    with packing.opened(next((project / "packed").iterdir())) as bundle:
        shutil.copytree(bundle, tmp_path / "old")
    manifest = json.loads((tmp_path / "old" / "manifest.json").read_text())
    manifest["models"][0]["inputs"][0]["shape"] = [1, 9]
    (tmp_path / "old" / "manifest.json").write_text(json.dumps(manifest))
    shutil.make_archive(str(project / "released"), "zip", tmp_path, "old")
    assert code(theirs[3]) == 7
