"""Bundles of somebody else in every generator: the texts never become code, and read back."""

from __future__ import annotations

import ast
import csv
import email
import io
import json
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from edgekd.bundles import android, linux, swift
from edgekd.bundles.identifiers import camel, snake, titled
from edgekd.bundles.integrity import integrity
from edgekd.bundles.quoting import NOT_XML, metadata_line
from tests.support.hostile import BUNDLES, bundle_of, collected
from tests.support.skips import need_program
from tests.support.swift_tokens import split_swift

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(scope="module")
def examples() -> list[dict[str, Any]]:
    return collected(BUNDLES)


def packed(
    module: Any, parent: Path, names: dict[str, Any], formats: tuple[str, ...], plain: bool = False
) -> tuple[Path, Any]:
    """The package that `module` makes of an example, and the manifest."""
    bundle, manifest = bundle_of(parent / "bundle", names, formats, plain)
    assert integrity(bundle) == []
    out = parent / "out"
    out.mkdir()
    module.pack(bundle, manifest, out)
    return out, manifest


def _hex(text: str) -> str:
    return text.encode().hex()


def test_cmake_and_c_read_the_texts_back(tmp_path: Path, examples: list[dict[str, Any]]) -> None:
    cmake, gcc = need_program("cmake"), need_program("gcc")
    script = ["cmake_minimum_required(VERSION 3.10)", "project(x NONE)"]
    shows, expected_paths, expected_texts = [], [], []
    for number, names in enumerate(examples):
        out, manifest = packed(linux, tmp_path / str(number), names, ("litert", "onnx"))
        prefix = out / f"{manifest.name}-{manifest.version}"
        config = prefix / "lib" / "cmake" / manifest.name / f"{manifest.name}Config.cmake"
        script += [f'include("{config}")', f'include("{str(config)[:-6]}Version.cmake")']
        base, upper = snake(manifest.name), snake(manifest.name).upper()
        header = prefix / "include" / f"{base}.h"
        lines = [f'#include "{header}"', "#include <stdio.h>",
                 "static void show(const char *text, unsigned size) {", "  unsigned i;",
                 '  for (i = 0; i < size; i++) {\n    printf("%02x", (unsigned char)text[i]);\n  }',
                 '  puts("");', "}", f"void show_{number}(void) {{", "  unsigned i;",
                 f"  for (i = 0; {base}_labels[i]; i++) {{", "    const char *end;",
                 f"    for (end = {base}_labels[i]; *end; end++) {{}}",
                 f"    show({base}_labels[i], (unsigned)(end - {base}_labels[i]));",
                 "  }"]  # fmt: skip
        expected_texts += [_hex(label) for label in manifest.labels]
        for title, model in titled(manifest, linux.FORMATS):
            variable = f"{base}_MODEL_{snake(title).upper()}"
            script.append(f'string(HEX "${{{variable}}}" hex)\nfile(APPEND out "${{hex}}\\n")')
            expected_paths.append(prefix / "share" / manifest.name / model.entry)
            name = f"{snake(title).upper()}_MODEL_INPUT_0"
            texts = {"NAME": model.inputs[0].name, "LAYOUT": model.inputs[0].layout or "",
                     "MEANING": model.inputs[0].meaning or ""}  # fmt: skip
            for macro, text in texts.items():
                lines.append(f"  show({name}_{macro}, sizeof({name}_{macro}) - 1);")
                expected_texts.append(_hex(text))
        lines += [f"  show({upper}_VERSION, sizeof({upper}_VERSION) - 1);", "}"]
        expected_texts.append(_hex(manifest.version))
        (tmp_path / f"show_{number}.c").write_text("\n".join(lines), encoding="utf-8")
        shows.append(f"show_{number}")
    (tmp_path / "CMakeLists.txt").write_text("\n".join(script), encoding="utf-8")
    before = {path.name for path in tmp_path.iterdir()}
    subprocess.run([cmake, "-S", ".", "-B", "build"], cwd=tmp_path, check=True, capture_output=True)
    read = [Path(bytes.fromhex(line).decode()) for line in (tmp_path / "out").read_text().split()]
    assert [path.resolve() for path in read] == expected_paths
    assert all(path.is_file() for path in read)
    assert {path.name for path in tmp_path.iterdir()} == before | {"build", "out"}
    (tmp_path / "main.c").write_text(
        "\n".join([*(f"void {show}(void);" for show in shows), "int main(void) {",
                   *(f"  {show}();" for show in shows), "  return 0;", "}"])
    )  # fmt: skip
    flags = ["-std=c99", "-trigraphs", "-Wall", "-Wextra", "-Werror", "-Wno-overlength-strings"]
    sources = ["main.c", *(f"{show}.c" for show in shows)]
    subprocess.run([gcc, *flags, *sources, "-o", "main"], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == expected_texts


def test_a_wheel_holds_one_line_per_text(tmp_path: Path, examples: list[dict[str, Any]]) -> None:
    for number, names in enumerate(examples):
        out, manifest = packed(linux, tmp_path / str(number), names, ("litert", "onnx"))
        with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
            contents = {
                name: wheel.read(name).decode(errors="replace") for name in wheel.namelist()
            }
        metadata = email.message_from_string(
            next(text for name, text in contents.items() if name.endswith("/METADATA"))
        )
        keys = ["Metadata-Version", "Name", "Version", "Summary", "Requires-Python"]
        assert metadata.keys() == keys + ["License"] * bool(manifest.licences.model)
        assert metadata["Version"] == manifest.version
        assert metadata["Summary"].strip() == metadata_line(manifest.description)
        record = next(text for name, text in contents.items() if name.endswith("/RECORD"))
        rows = list(csv.reader(io.StringIO(record)))
        assert sorted(row[0] for row in rows) == sorted(contents)
        for name, text in contents.items():
            if name.endswith(".py"):
                ast.parse(text)
            if name.endswith("/manifest.json"):
                assert json.loads(text)["labels"] == manifest.labels


def test_swift_has_the_texts_in_literals_only(
    tmp_path: Path, examples: list[dict[str, Any]]
) -> None:
    for number, names in enumerate(examples):
        out, manifest = packed(swift, tmp_path / f"{number}a", names, ("coreml", "coreml"))
        plain, _ = packed(swift, tmp_path / f"{number}b", names, ("coreml", "coreml"), plain=True)
        sources = sorted(out.rglob("*.swift"))
        assert len(sources) == 6
        for source in sources:
            literals, code = split_swift(source.read_text(encoding="utf-8"))
            other = (plain / source.relative_to(out)).read_text(encoding="utf-8")
            assert code == split_swift(other)[1]
            if source.parent.parent.name == "Sources":
                assert {*manifest.labels, *names["tensors"], names["text"]} <= set(literals)
                assert f"Resources/{names['file']}" in literals


def test_java_and_maven_read_the_texts_back(
    tmp_path: Path, examples: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    javac, java = need_program("javac"), need_program("java")
    # One compiler for all examples.
    monkeypatch.setattr(android, "_compiled", lambda *_: {})
    shows, expected = [], []
    for number, names in enumerate(examples):
        parent = tmp_path / str(number)
        bundle, manifest = bundle_of(parent / "bundle", names, ("litert", "onnx"))
        assert integrity(bundle) == []
        table = manifest.android.model_copy(update={"group": f"e{number}.models"})
        manifest = manifest.model_copy(update={"android": table})
        android.pack(bundle, manifest, parent / "out")
        for archive in (parent / "out").rglob("*-sources.jar"):
            with zipfile.ZipFile(archive) as sources:
                sources.extractall(tmp_path / "java")
        for title, model in titled(manifest, android.FORMATS):
            name = f"e{number}.models.{snake(title)}.{camel(title)}"
            shows.append(f"show({name}.labels()); show({name}.inputNames()); "
                         f"show({name}.inputLayouts()); show({name}.ASSET);")  # fmt: skip
            expected += [_hex(label) for label in manifest.labels]
            expected += [_hex(model.inputs[0].name), _hex(model.inputs[0].layout or "")]
            expected.append(_hex(android.asset(manifest, model)))
        for pom in (parent / "out").rglob("*.pom"):
            root = ElementTree.parse(pom).getroot()
            tags = [re.sub("{.*}", "", child.tag) for child in root]
            assert tags[:5] == ["modelVersion", "groupId", "artifactId", "version", "packaging"]
            assert set(tags[5:]) <= {"name", "description", "licenses"}
            found = [child.text or "" for child in root if child.tag.endswith("description")]
            assert found == [NOT_XML.sub(REPLACEMENT, manifest.description)]
        for text in (parent / "out").rglob("maven-metadata.xml"):
            ElementTree.parse(text)
    tests = [
        path for path in tmp_path.rglob("*GoldenTest.java") if "instrumented-test" in str(path)
    ]
    assert len(tests) == 2 * len(examples)
    parts = [shows[i : i + 100] for i in range(0, len(shows), 100)]
    methods = [f"static void part{i}() {{ {' '.join(part)} }}" for i, part in enumerate(parts)]
    calls = " ".join(f"part{i}();" for i in range(len(parts)))
    (tmp_path / "Main.java").write_text(
        MAIN.replace("METHODS", "\n".join(methods)).replace("CALLS", calls)
    )
    files = [str(path) for path in (tmp_path / "java").rglob("*.java")]
    (tmp_path / "files").write_text(
        "\n".join(f'"{path}"' for path in [*files, tmp_path / "Main.java"])
    )
    (tmp_path / "classes").mkdir()
    subprocess.run([javac, "-encoding", "UTF-8", "-proc:none", "-d", "classes", "@files"],
                   cwd=tmp_path, check=True)  # fmt: skip
    command = [java, "-cp", tmp_path / "classes", "Main"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == expected
    # The instrumented tests need Android's libraries; their syntax is checked without them.
    (tmp_path / "files").write_text("\n".join(f'"{path}"' for path in tests))
    parsed = subprocess.run([javac, "-encoding", "UTF-8", "-proc:none", "-cp", "classes", "@files",
                             "-Xmaxerrs", "100000"],
                            cwd=tmp_path, capture_output=True, text=True)  # fmt: skip
    kinds = set(re.findall(r"error: (.*)", parsed.stderr))
    assert all(kind.endswith("does not exist") or kind == "cannot find symbol"
               or kind.startswith("static import only") for kind in kinds), kinds  # fmt: skip


MAIN = """\
import java.nio.charset.StandardCharsets;
public class Main {
  static void show(String... texts) {
    for (String text : texts) {
      StringBuilder hex = new StringBuilder();
      for (byte b : text.getBytes(StandardCharsets.UTF_8)) hex.append(String.format("%02x", b));
      System.out.println(hex);
    }
  }
  METHODS
  public static void main(String[] args) { CALLS }
}
"""
