"""Texts in generated files: what each language's own reader makes of them."""

from __future__ import annotations

import email
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from edgekd.bundles.quoting import (
    CONTROLS,
    NOT_XML,
    markdown_line,
    metadata_line,
    quoted_c,
    quoted_cmake,
    quoted_java,
    quoted_swift,
    xml_text,
)
from tests.support.hostile import EXAMPLES, collected, texts
from tests.support.skips import need_program
from tests.support.swift_tokens import split_swift

ANY = texts(st.characters())
"""Also halves of surrogate pairs."""

fuzzed = settings(max_examples=4 * EXAMPLES, derandomize=True, database=None, deadline=None)


def whole(text: str) -> str:
    """`text` as UTF-8 can hold it."""
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


@fuzzed
@given(ANY)
def test_xml_reads_a_text_back(text: str) -> None:
    escaped = xml_text(text)
    document = f'<?xml version="1.0" encoding="UTF-8"?><a b="x">{escaped}</a>'
    element = ElementTree.fromstring(document.encode())
    assert (element.text or "") == NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
    assert not list(element)
    quoted = ElementTree.fromstring(f'<a b="{escaped}" c="1"/>'.encode())
    assert set(quoted.attrib) == {"b", "c"}


@fuzzed
@given(ANY)
@example("\\(readLine()!)")
def test_swift_reads_a_text_back(text: str) -> None:
    literals, code = split_swift(f"let a = {quoted_swift(text)}; let b = 1")
    assert literals == [whole(text)]
    assert code == 'let a = ""; let b = 1'


@fuzzed
@given(ANY)
def test_a_line_of_metadata_stays_one_line(text: str) -> None:
    line = metadata_line(text)
    assert not CONTROLS.search(line)
    message = email.message_from_bytes(f"Name: x\nSummary: {line}\nVersion: 1\n".encode())
    assert message.keys() == ["Name", "Summary", "Version"]


@fuzzed
@given(ANY)
@example("1. x")
@example("- x")
@example("---")
@example("~~~ x")
@example("<script>alert(1)</script>")
@example("![x](http://x)")
def test_markdown_shows_a_text_as_text(text: str) -> None:
    tokens = MarkdownIt("commonmark").parse(f"{markdown_line(text)}\n\nafter\n")
    blocks = [token.type for token in tokens if token.type.endswith("_open")]
    assert set(blocks) <= {"paragraph_open"}
    inline = [child.type for token in tokens for child in token.children or []]
    assert set(inline) <= {"text", "text_special"}
    assert "".join(token.content for token in tokens[-2:]) == "after"


def _hex(text: str) -> str:
    return text.encode().hex()


def test_cmake_reads_texts_back(tmp_path: Path) -> None:
    cmake = need_program("cmake")
    examples = collected(ANY)
    show = 'string(HEX "${text}" hex)\nfile(APPEND out "${hex}\\n")'
    lines = [f"set(text {quoted_cmake(text)})\n{show}" for text in examples]
    (tmp_path / "script.cmake").write_text("\n".join(lines), encoding="utf-8")
    subprocess.run([cmake, "-P", "script.cmake"], cwd=tmp_path, check=True)
    read = (tmp_path / "out").read_text().split("\n")[:-1]
    assert read == [_hex(whole(t).replace("\0", "\N{REPLACEMENT CHARACTER}")) for t in examples]
    assert {path.name for path in tmp_path.iterdir()} == {"script.cmake", "out"}


def test_a_c_compiler_reads_texts_back(tmp_path: Path) -> None:
    gcc = need_program("gcc")
    examples = collected(ANY)
    lines = [
        "#include <stdio.h>",
        "static void show(const char *text, unsigned size) {",
        "  unsigned i;",
        "  for (i = 0; i < size; i++) {",
        '    printf("%02x", (unsigned char)text[i]);',
        "  }",
        '  puts("");',
        "}",
        "int main(void) {",
        *(f"  show({quoted_c(text)}, sizeof({quoted_c(text)}) - 1);" for text in examples),
        "  return 0;",
        "}",
    ]
    (tmp_path / "main.c").write_text("\n".join(lines), encoding="ascii")
    flags = ["-std=c99", "-trigraphs", "-Wall", "-Werror", "-Wno-overlength-strings"]
    subprocess.run([gcc, *flags, "main.c", "-o", "main"], cwd=tmp_path, check=True)
    out = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    assert out.split("\n")[:-1] == [_hex(whole(text)) for text in examples]


def test_a_java_compiler_reads_texts_back(tmp_path: Path) -> None:
    javac, java = need_program("javac"), need_program("java")
    examples = collected(ANY)
    # A method holds 64 KiB of code.
    shows = [f"    show({quoted_java(text)});" for text in examples]
    parts = [shows[i : i + 500] for i in range(0, len(shows), 500)]
    methods = "".join(
        f"  static void part{number}() {{\n" + "\n".join(part) + "\n  }\n"
        for number, part in enumerate(parts)
    )
    calls = " ".join(f"part{i}();" for i in range(len(parts)))
    (tmp_path / "Main.java").write_text(
        "import java.nio.charset.StandardCharsets;\n"
        "public class Main {\n  static void show(String text) {\n"
        "    StringBuilder hex = new StringBuilder();\n"
        "    for (byte b : text.getBytes(StandardCharsets.UTF_8))\n"
        '      hex.append(String.format("%02x", b));\n'
        "    System.out.println(hex);\n  }\n"
        f"{methods}  public static void main(String[] a) {{ {calls} }}\n}}\n",
        encoding="ascii",
    )
    subprocess.run([javac, "Main.java"], cwd=tmp_path, check=True, capture_output=True)
    out = subprocess.run(
        [java, "-cp", tmp_path, "Main"], capture_output=True, text=True, check=True
    )
    assert out.stdout.split("\n")[:-1] == [_hex(whole(text)) for text in examples]
