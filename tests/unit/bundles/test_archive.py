"""A bundle as one file: what is unpacked from an archive and what is refused."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekd.bundles import archive
from edgekd.bundles import pack as packing
from edgekd.bundles.integrity import integrity
from edgekd.errors import RecipeError
from tests.support.bundles import written
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
