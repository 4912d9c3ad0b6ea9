"""Manifests that an earlier edgekd or somebody else wrote."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.bundles import linux, swift
from edgekd.bundles.diff import Tolerance, compare
from edgekd.bundles.folder import sums
from edgekd.bundles.integrity import integrity
from edgekd.bundles.manifest import MANIFEST, inside, read_manifest
from edgekd.errors import EdgekdError
from edgekd.system.files import write_json
from tests.support.bundles import written
from tests.support.hostile import EXAMPLES, texts
from tests.support.project import assert_five_parts


def test_the_former_name_of_a_qat_network_is_still_read(tmp_path: Path) -> None:
    bundle, _ = written(tmp_path)
    document = json.loads((bundle / MANIFEST).read_text())
    document["models"][0]["network"] = "quantized"
    write_json(bundle / MANIFEST, document)
    assert read_manifest(bundle).models[0].network == "qat"


def changed(tmp_path: Path, change: Callable[[str], str]) -> Path:
    """A bundle whose manifest's text is changed."""
    bundle, _ = written(tmp_path, ("onnx",))
    text = (bundle / MANIFEST).read_text()
    assert change(text) != text
    (bundle / MANIFEST).write_text(change(text))
    return bundle


NOT_JSON: dict[str, tuple[str, Callable[[str], str]]] = {
    "twice": ("occurs twice", lambda text: text.replace('"name":', '"name": "x", "name":', 1)),
    "NaN": ("NaN is not a number", lambda text: text.replace("0.95", "NaN")),
    "1e999": ("beyond the range", lambda text: text.replace("0.95", "1e999")),
    "digits": ("beyond the range", lambda text: text.replace("0.95", "9" * 5000)),
    "deep": ("nested more than", lambda text: text.replace("0.95", "[" * 5000 + "]" * 5000)),
    "less deep": ("nested more than", lambda text: text.replace("0.95", "[" * 99 + "]" * 99)),
    "surrogate": ("half a surrogate pair", lambda text: text.replace("Hears", "\\ud800")),
    "utf-16": ("UnicodeDecodeError", lambda text: text),
}


@pytest.mark.parametrize("name", NOT_JSON)
def test_a_manifest_that_readers_would_read_differently_is_refused(
    tmp_path: Path, name: str, edgekd_cli: Any
) -> None:
    message, change = NOT_JSON[name]
    if name == "utf-16":
        bundle, _ = written(tmp_path, ("onnx",))
        (bundle / MANIFEST).write_text((bundle / MANIFEST).read_text(), encoding="utf-16")
    else:
        bundle = changed(tmp_path, change)
    result = edgekd_cli("bundle", bundle, "--check")
    assert result.code == 2
    assert_five_parts(result.err)
    assert message in result.err


@pytest.mark.parametrize(
    "path", ["${x}", "a b", "a/$(id)", "@X@", 'a"b', "a;b", "a\nb", "é", "...", "a/./b", "-" * 256]
)
def test_a_path_in_a_manifest_has_plain_parts(tmp_path: Path, path: str, edgekd_cli: Any) -> None:
    bundle, manifest = written(tmp_path, ("onnx",))
    document = json.loads((bundle / MANIFEST).read_text())
    document["models"][0]["entry"] = f"models/phone-onnx/{path}"
    write_json(bundle / MANIFEST, document)
    result = edgekd_cli("bundle", bundle)
    assert result.code == 2
    assert_five_parts(result.err)
    assert "a path inside the bundle" in result.err
    assert manifest.models[0].entry == inside(manifest.models[0].entry)


def test_escape_codes_in_a_manifest_are_printed_as_text(tmp_path: Path, edgekd_cli: Any) -> None:
    evil = "\x1b[2J\x07\x9b2J\N{RIGHT-TO-LEFT OVERRIDE}"
    bundle, _ = written(tmp_path, ("onnx",), description=evil, metric=evil, left_out={"x": evil})
    result = edgekd_cli("bundle", bundle)
    assert result.code == 0
    document = json.loads((bundle / MANIFEST).read_text())
    document[evil] = 1
    write_json(bundle / MANIFEST, document)
    refused = edgekd_cli("bundle", bundle)
    assert refused.code == 2
    assert "\\x1b[2J\\x07\\x9b2J\\u202e" in refused.err
    assert not {*evil} - {*"[2J"} & {*result.out, *result.err, *refused.err}


def _leaves(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in `document`."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    return [
        leaf
        for key, value in items
        for leaf in [
            (*path, key),
            *(_leaves(value, (*path, key)) if isinstance(value, dict | list) else []),
        ]
    ]


def test_no_value_in_a_manifest_is_a_bug(tmp_path: Path) -> None:
    """Whatever a value is, the manifest is read, checked and packed, or refused with its faults."""
    bundle, _ = written(tmp_path)
    whole = (bundle / MANIFEST).read_text()
    paths = _leaves(json.loads(whole))
    values = st.one_of(texts(), st.none(), st.booleans(), st.integers(), st.floats(),
                       st.just([]), st.just({}), st.just(["x"]), st.just({"x": 1}))  # fmt: skip

    @settings(max_examples=8 * EXAMPLES, derandomize=True, database=None, deadline=None)
    @given(st.sampled_from(paths), values)
    def replace(path: tuple[Any, ...], value: Any) -> None:
        document = json.loads(whole)
        table = document
        for key in path[:-1]:
            table = table[key]
        table[path[-1]] = value
        (bundle / MANIFEST).write_text(json.dumps(document))
        (bundle / "SHA256SUMS").write_text(sums(bundle))
        with contextlib.suppress(EdgekdError):
            if integrity(bundle):
                return
            compare(bundle, bundle, Tolerance())
            for module in (linux, swift):
                with tempfile.TemporaryDirectory() as out:
                    module.pack(bundle, read_manifest(bundle), Path(out))

    replace()
