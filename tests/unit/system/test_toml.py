from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.errors import RecipeError
from edgekd.system.toml import parse_value, read_toml
from tests.support.project import assert_five_parts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = " + "[" * 5000 + "]" * 5000, "nested too deep"),
        ("a = " + "{a=" * 5000 + "1" + "}" * 5000, "nested too deep"),
        ("a = " + "9" * 5000, "digits"),
        ("a = 0x" + "f" * 5000, "20000 bits"),
        ("a = 9223372036854775808", "64 bits"),
        ('a = "b\\u0000.onnx"', "a has a NUL character"),
        ('t = { l = ["x", "b\\u0000"] }', "t.l[1] has a NUL character"),
        ('"b\\u0000" = 1', "NUL character"),
        ("a = ", "Invalid value"),
        ("a = 1\na = 2", "Cannot overwrite"),
    ],
)
def test_a_document_that_no_reader_takes_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as stop:
        read_toml(path)
    assert reason in str(stop.value)
    assert_five_parts(str(stop.value))


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a = '\xe9'", b"\x00"])
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "recipe.toml").write_bytes(data)
    with pytest.raises(RecipeError):
        read_toml(tmp_path / "recipe.toml")


def test_a_path_with_a_nul_character_is_refused() -> None:
    with pytest.raises(RecipeError):
        read_toml(Path("recipe\0.toml"))


def test_the_largest_and_smallest_integers_are_read(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(f"a = {2**63 - 1}\nb = {-(2**63)}\n")
    assert read_toml(tmp_path / "recipe.toml") == {"a": 2**63 - 1, "b": -(2**63)}


@pytest.mark.parametrize("text", ["[" * 5000, "9" * 5000, "0x" + "f" * 5000, "plain"])
def test_a_value_that_is_not_toml_is_a_text(text: str) -> None:
    assert parse_value(text) == text
