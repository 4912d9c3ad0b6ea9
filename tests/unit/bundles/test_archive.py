"""A bundle as one file: what is unpacked from an archive and what is refused."""

from __future__ import annotations

import contextlib
import io
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.bundles import archive
from edgekd.bundles import pack as packing
from edgekd.bundles.archive import write_zip
from edgekd.bundles.integrity import integrity
from edgekd.errors import RecipeError
from tests.support.bundles import written
from tests.support.hostile import EXAMPLES
from tests.support.project import assert_five_parts


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    bundle, _ = written(tmp_path, ("onnx",))
    return next(packing.pack(bundle, "archive", tmp_path / "out").iterdir())


def test_an_archive_is_read_like_a_folder(packed: Path, tmp_path: Path, edgekd_cli: Any) -> None:
    assert packed.name == "key-spotter-1.2.3.zip"
    with packing.opened(packed) as bundle:
        assert integrity(bundle) == []
    assert not bundle.exists()
    folder = tmp_path / "key-spotter-1.2.3"
    assert edgekd_cli("diff", folder, packed).code == 0
    result = edgekd_cli("bundle", packed, "--json")
    assert (result.code, result.json["bundle"]) == (0, str(packed))
    again = edgekd_cli("bundle", packed, "--kind", "archive", "--out", tmp_path / "again")
    assert again.code == 0
    assert (tmp_path / "again" / packed.name).read_bytes() == packed.read_bytes()


def test_an_archive_is_not_signed_but_its_bundle_is(packed: Path, edgekd_cli: Any) -> None:
    result = edgekd_cli("bundle", packed, "--sign", "key.pem")
    assert result.code == 2
    assert_five_parts(result.err)
    assert "before you pack it" in result.err


def test_a_truncated_archive_is_refused(packed: Path, edgekd_cli: Any) -> None:
    whole = packed.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        packed.write_bytes(whole[: int(share * len(whole))])
        result = edgekd_cli("bundle", packed, "--check")
        assert result.code == 2, share
        assert_five_parts(result.err)
        assert "cannot be read" in result.err


def test_a_changed_byte_is_found(packed: Path) -> None:
    with zipfile.ZipFile(packed) as opened:
        entry = opened.getinfo("key-spotter-1.2.3/models/phone-onnx/model.onnx")
    data = bytearray(packed.read_bytes())
    data[entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2] ^= 255
    packed.write_bytes(data)
    with pytest.raises(RecipeError, match="cannot be read"), packing.opened(packed):
        pass


def _link(opened: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("key-spotter-1.2.3/passwd")
    entry.create_system, entry.external_attr = 3, 0o120777 << 16
    opened.writestr(entry, "/etc/passwd")


def _twice(opened: zipfile.ZipFile) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        opened.writestr("key-spotter-1.2.3/labels.txt", "other")


EVIL: dict[str, Callable[[zipfile.ZipFile], None]] = {
    "not a regular file": _link,
    "occurs twice": _twice,
    "inside the bundle": lambda opened: opened.writestr("../../evil", "x"),
    "inside the bundle, its parts joined by /, not '/tmp": lambda opened: opened.writestr(
        zipfile.ZipInfo("/tmp/evil"), "x"
    ),
    "Error": lambda opened: opened.writestr("key-spotter-1.2.3/labels.txt/x", "x"),
}


@pytest.mark.parametrize("problem", EVIL)
def test_contents_that_no_bundle_has_are_not_unpacked(
    packed: Path, problem: str, edgekd_cli: Any
) -> None:
    with zipfile.ZipFile(packed, "a") as opened:
        EVIL[problem](opened)
    result = edgekd_cli("bundle", packed, "--check")
    assert result.code == 2
    assert_five_parts(result.err)
    assert problem in result.err
    assert not Path("/tmp/evil").exists()


def test_an_archive_that_would_fill_the_disk_is_not_unpacked(
    packed: Path, monkeypatch: pytest.MonkeyPatch, edgekd_cli: Any
) -> None:
    monkeypatch.setattr(archive, "LIMIT_BYTES", 1000)
    result = edgekd_cli("bundle", packed, "--check")
    assert result.code == 2
    assert "more than 1,000" in result.err


def test_a_file_larger_than_its_stated_size_is_refused(packed: Path) -> None:
    """The limit applies to the unpacked bytes, not to the stated sizes."""
    data = packed.read_bytes()
    with zipfile.ZipFile(packed) as opened:
        entry = opened.getinfo("key-spotter-1.2.3/manifest.json")
    true, lie = entry.file_size.to_bytes(4, "little"), (10).to_bytes(4, "little")
    assert data.count(true) >= 2
    packed.write_bytes(data.replace(true, lie))
    with pytest.raises(RecipeError, match="cannot be read"), packing.opened(packed):
        pass


def test_an_archive_without_a_bundle_is_refused(tmp_path: Path, edgekd_cli: Any) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("readme.txt", "x")
    result = edgekd_cli("bundle", tmp_path / "a.zip")
    assert result.code == 2
    assert_five_parts(result.err)
    assert "There is no bundle" in result.err


def _raw_zip(path: Path, names: list[bytes], content: bytes = b"x") -> None:
    """Write a zip whose names are the bytes `names`, which `zipfile` would not write."""
    body, table = io.BytesIO(), io.BytesIO()
    crc = zlib.crc32(content)
    for name in names:
        fields = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, crc, len(content), len(content),
                             len(name), 0)  # fmt: skip
        table.write(b"PK\1\2" + struct.pack("<H", 20) + fields)
        table.write(struct.pack("<HHHII", 0, 0, 0, 0, body.tell()) + name)
        body.write(b"PK\3\4" + fields + name + content)
    sizes = table.tell(), body.tell()
    end = struct.pack("<HHHHIIH", 0, 0, len(names), len(names), *sizes, 0)
    path.write_bytes(body.getvalue() + table.getvalue() + b"PK\5\6" + end)


RAW = {
    "nameless": [b""],
    "NUL": [b"b-1.0.0/manifest.json\0.txt"],
    "absolute": [b"/tmp/evil"],
    "outside": [b"b/../../evil"],
    "dots": [b".../x"],
    "backslash": [b"b\\..\\evil"],
    "drive": [b"C:/evil"],
    "shell": [b"b/$(touch MARK)"],
    "escape": [b"b/\x1b[2J"],
    "long": [b"b/" + b"x" * 300],
    "many": [b"b/%d" % number for number in range(30_000)],
    "long table": [b"b/%d" % number + b"x" * 500 for number in range(9_000)],
}


@pytest.mark.parametrize("name", RAW)
def test_an_archive_with_names_that_no_bundle_has_is_refused(
    tmp_path: Path, name: str, edgekd_cli: Any
) -> None:
    path = tmp_path / "b.zip"
    _raw_zip(path, RAW[name])
    began = time.monotonic()
    result = edgekd_cli("bundle", path, "--check")
    assert time.monotonic() - began < 20
    assert result.code == 2
    assert_five_parts(result.err)
    assert "\x1b" not in result.err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b.zip"]


def test_an_archive_that_grows_beyond_reason_is_refused(tmp_path: Path, edgekd_cli: Any) -> None:
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for number in range(4):
            opened.writestr(f"b/{number}", bytes(2**26))
    result = edgekd_cli("bundle", path, "--check")
    assert result.code == 2
    assert_five_parts(result.err)
    assert "bytes unpacked, more than" in result.err


@pytest.mark.parametrize("second", ["a-1.0.0/manifest.json", "manifest.json", "other/readme"])
def test_an_archive_with_something_beside_its_bundle_is_refused(
    packed: Path, second: str, edgekd_cli: Any
) -> None:
    with zipfile.ZipFile(packed, "a") as opened:
        opened.writestr(second, "{}")
    result = edgekd_cli("bundle", packed, "--check")
    assert result.code == 2
    assert_five_parts(result.err)
    wanted = "is not a bundle" if second == "manifest.json" else "holds one bundle"
    assert wanted in result.err


def test_a_folder_or_an_archive_of_another_version_is_refused(
    tmp_path: Path, edgekd_cli: Any
) -> None:
    bundle, _ = written(tmp_path, ("onnx",))
    other = bundle.rename(tmp_path / "key-spotter-9.9.9")
    result = edgekd_cli("bundle", other, "--check")
    assert result.code == 2
    assert_five_parts(result.err)
    assert "the folder of version 9.9.9" in result.err
    path = tmp_path / "a.zip"
    write_zip(path, {f"{other.name}/{n}": file for n, file in archive.files_under(other).items()})
    assert "the folder of version 9.9.9" in edgekd_cli("bundle", path, "--check").err


def test_no_damage_to_an_archive_is_a_bug(packed: Path, tmp_path: Path) -> None:
    whole = packed.read_bytes()
    path = tmp_path / "damaged.zip"

    @settings(max_examples=8 * EXAMPLES, derandomize=True, database=None, deadline=None)
    @given(st.data())
    def damage(data: st.DataObject) -> None:
        content = bytearray(whole)
        # The table of contents, at the end, is more often damaged than the files.
        low = data.draw(st.sampled_from([0, len(content) - 1500, len(content) - 100]))
        for _ in range(data.draw(st.integers(1, 6))):
            content[data.draw(st.integers(low, len(content) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.sampled_from([0, 0, 0, 1, 50]))
        path.write_bytes(content[: len(content) - cut])
        with contextlib.suppress(RecipeError), packing.opened(path) as opened:
            integrity(opened)

    damage()
