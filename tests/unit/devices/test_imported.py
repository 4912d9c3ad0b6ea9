"""Hand-written figures that do not fit their format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd.devices import imported
from edgekd.errors import RecipeError
from tests.support.project import assert_five_parts

MODEL = {"sha256": "0" * 64, "count": 100, "prediction_ms": {"median": 1.2}}
GOOD = {"format": "edgekd-figures", "version": 1, "device": "iPhone 15", "machine": "arm64",
        "models": [MODEL]}  # fmt: skip


def refused(path: Path, data: str | bytes) -> str:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(RecipeError) as stop:
        imported.run_agent(f"imported://{path}", path.parent, timeout_s=1)
    assert_five_parts(str(stop.value))
    return str(stop.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"version":' + b"9" * 5000 + b"}"],
)
def test_a_file_that_is_no_document_is_refused(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path / "f.json", data)


@pytest.mark.parametrize(
    "changed",
    [
        {"format": "other"}, {"version": 2}, {"version": True}, {"version": "1"}, {"device": ""},
        {"device": 15}, {"machine": ["arm64"]}, {"system": {}}, {"tool": 16.1}, {"models": {}},
        {"models": 3}, {"models": ["a"]}, {"models": [None]}, {"models": [[]] * 100_000},
    ],
)  # fmt: skip
def test_a_document_of_other_types_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    refused(tmp_path / "f.json", json.dumps({**GOOD, **changed}))


@pytest.mark.parametrize(
    "changed",
    [
        {"sha256": 3}, {"count": 0}, {"count": -1}, {"count": 1.5}, {"count": True},
        {"count": 10**400}, {"prediction_ms": None}, {"prediction_ms": {}},
        {"prediction_ms": {"mode": 1.0}}, {"prediction_ms": {"median": "1.2"}},
        {"prediction_ms": {"median": float("nan")}}, {"prediction_ms": {"median": float("inf")}},
        {"prediction_ms": {"median": -1.0}}, {"prediction_ms": {"median": 0}},
        {"prediction_ms": {"median": True}}, {"prediction_ms": {"median": [1.0] * 100_000}},
        {"prediction_ms": {"median": 2.0, "p90": 1.0}}, {"prediction_ms": [1.2]},
        {"load_ms": "85"}, {"load_ms": -1}, {"load_ms": float("nan")}, {"load_ms": None},
        {"compute_units": 3}, {"operations": [1]}, {"operations": {"cpu": -1}},
        {"operations": {"cpu": "all"}},
    ],
)  # fmt: skip
def test_figures_of_other_types_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    refused(tmp_path / "f.json", json.dumps({**GOOD, "models": [{**MODEL, **changed}]}))


@pytest.mark.parametrize("name", ["missing.json", "nul\0.json", "[.json", "a" * 300])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError) as stop:
        imported.run_agent(f"imported://{tmp_path}/{name}", tmp_path, timeout_s=1)
    assert_five_parts(str(stop.value))
