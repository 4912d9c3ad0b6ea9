"""Figures that were measured elsewhere and written down: imported://FILE.json.

edgekd cannot drive an iPhone. Xcode times a Core ML model on an iPhone that is plugged into a Mac
(its model viewer, tab Performance) and shows the figures for this file. The format of Xcode's own
report is not documented, so a person copies the figures.

    { "format": "edgekd-figures", "version": 1,
      "device": "iPhone 15", "machine": "arm64", "system": "iOS 18.1", "tool": "Xcode 16.1",
      "models": [{ "sha256": "...", "count": 100, "compute_units": "all",
                   "prediction_ms": { "median": 1.21 }, "load_ms": 85.0,
                   "operations": { "neural-engine": 40, "gpu": 0, "cpu": 2 } }] }

`sha256` is the artifact's, from `edgekd export` or result.json. `prediction_ms` has any of min, p5,
median, p90, p95, p99 and max; a budget is judged as far as they allow.

Source: Apple, "Analyzing a Core ML model's performance in Xcode": contents of a report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.devices.on_device.agent import VERSION
from edgekd.devices.reply_values import (
    MisfitError,
    as_list,
    as_number,
    as_object,
    as_time,
    is_count,
    read_json,
    short,
)
from edgekd.devices.reply_values import cleaned as as_clean
from edgekd.errors import Fault, RecipeError
from edgekd.system.files import path_digest

SCHEME = "imported://"
QUANTILES = {
    "min": 0.0,
    "p5": 0.05,
    "median": 0.5,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "max": 1.0,
}


def run_agent(url: str, folder: Path, *, timeout_s: float) -> None:  # noqa: ARG001  Reading a file needs no limit.
    """Write the report of the job in `folder` from the file of `url`; see `Device`.

    Artifacts that the file does not list are unavailable, and so are outputs.

    Raises:
        RecipeError: the file has another format.
    """
    path = Path(url.removeprefix(SCHEME))
    document = _read(path)
    job = json.loads((folder / "job.json").read_text())
    known = {model["sha256"]: model for model in document["models"]}
    results = {}
    for entry in job["artifacts"]:
        digest = path_digest(folder / entry["path"])
        model = known.get(digest)
        if job["action"] != "time":
            detail = f"{path} has latencies only, no outputs"
        elif model is None:
            detail = f"{path} has no figures for the artifact of sha256 {digest}"
        else:
            results[entry["name"]] = _result(model, document)
            continue
        results[entry["name"]] = {"failure": {"outcome": "unavailable", "detail": detail}}
    report = {
        "version": VERSION,
        "results": results,
        "peak_memory_bytes": None,
        "device": {
            "machine": document["machine"],
            "processor": document["device"],
            "model": document["device"],
            "system": document.get("system"),
            "imported": str(path),
        },
    }
    (folder / "report.json").write_text(json.dumps(report))


def _result(model: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    times = model["prediction_ms"]
    figures = sorted((QUANTILES[name], ms) for name, ms in times.items())
    return {
        "import_ns": None,
        "init_ns": round(1e6 * model.get("load_ms", 0.0)),
        "first_ns": 0,
        "warm_up_count": 0,
        "settled": True,
        "told": {"count": model["count"], "figures": figures},
        "facts": {
            "runtime": "coreml",
            "version": document.get("system"),
            "tool": document.get("tool"),
            "compute_units": model.get("compute_units"),
            "nodes": model.get("operations"),
        },
        "failure": None,
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        document = as_object(read_json(path), "the file")
        _check(document)
        cleaned: dict[str, Any] = as_clean(document, "the file")
    except ValueError as error:
        raise RecipeError(_fault(path, str(error))) from error
    return cleaned


def _check(document: Mapping[str, Any]) -> None:
    """Compare the document with its format.

    Raises:
        MisfitError: it is another one.
    """
    if document.get("format") != "edgekd-figures":
        raise MisfitError('no "format": "edgekd-figures"')
    if document.get("version") != 1 or isinstance(document["version"], bool):
        raise MisfitError(f"version {short(document.get('version'))}")
    for name in ("device", "machine", "models"):
        if not document.get(name):
            raise MisfitError(f"no {name!r}")
    for name in ("device", "machine", "system", "tool"):
        if not isinstance(document.get(name), str | None):
            raise MisfitError(f"{name} is {short(document[name])}, not a text")
    for number, model in enumerate(as_list(document["models"], "models")):
        _check_model(as_object(model, f"models[{number}]"), f"models[{number}]")


def _check_model(model: Mapping[str, Any], at: str) -> None:
    if not isinstance(model.get("sha256"), str) or not is_count(model.get("count")):
        raise MisfitError(f"{at} has no sha256, or no count of predictions")
    if not model["count"]:
        raise MisfitError(f"{at}.count is 0")
    times = as_object(model.get("prediction_ms"), f"{at}.prediction_ms")
    if not times or set(times) - set(QUANTILES):
        raise MisfitError(f"{at}.prediction_ms: {short(times)}")
    ordered = [
        as_number(times[name], f"{at}.prediction_ms.{name}") for name in QUANTILES if name in times
    ]
    if min(ordered) <= 0:
        raise MisfitError(f"{at}.prediction_ms: {short(times)}")
    if ordered != sorted(ordered):
        raise MisfitError(f"{at}.prediction_ms does not ascend: {short(times)}")
    as_time(model.get("load_ms", 0.0), f"{at}.load_ms", least=0)
    if not isinstance(model.get("compute_units"), str | None):
        raise MisfitError(f"{at}.compute_units is {short(model['compute_units'])}, not a text")
    operations = as_object(model.get("operations") or {}, f"{at}.operations")
    if not all(is_count(count) for count in operations.values()):
        raise MisfitError(f"{at}.operations: {short(operations)}")


def _fault(path: Path, got: str) -> Fault:
    return Fault(
        what="The figures cannot be imported.",
        at=str(path),
        got=got,
        expected='{"format": "edgekd-figures", "version": 1, "device": ..., "machine": "arm64", '
        '"models": [{"sha256": ..., "count": ..., "prediction_ms": {"median": ...}}]}',
        fix="write it as shown in docs/devices.md, section iPhone",
    )
