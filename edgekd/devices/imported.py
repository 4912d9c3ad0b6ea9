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
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(_fault(path, f"{type(error).__name__}: {error}")) from error
    problem = _problem(document)
    if problem is not None:
        raise RecipeError(_fault(path, problem))
    figures: dict[str, Any] = document
    return figures


def _problem(document: Any) -> str | None:
    """Why the file is not valid, or None."""
    if not isinstance(document, dict) or document.get("format") != "edgekd-figures":
        return 'no "format": "edgekd-figures"'
    if document.get("version") != 1:
        return f"version {document.get('version')!r}"
    for name in ("device", "machine", "models"):
        if not document.get(name):
            return f"no {name!r}"
    for number, model in enumerate(document["models"]):
        at = f"models[{number}]"
        if not isinstance(model.get("sha256"), str) or not isinstance(model.get("count"), int):
            return f"{at} has no sha256, or no count of predictions"
        times = model.get("prediction_ms")
        if not isinstance(times, dict) or not times or set(times) - set(QUANTILES):
            return f"{at}.prediction_ms: {times!r}"
        ordered = [times[name] for name in QUANTILES if name in times]
        if not all(isinstance(ms, int | float) and ms > 0 for ms in ordered):
            return f"{at}.prediction_ms: {times!r}"
        if ordered != sorted(ordered):
            return f"{at}.prediction_ms does not ascend: {times!r}"
    return None


def _fault(path: Path, got: str) -> Fault:
    return Fault(
        what="The figures cannot be imported.",
        at=str(path),
        got=got,
        expected='{"format": "edgekd-figures", "version": 1, "device": ..., "machine": "arm64", '
        '"models": [{"sha256": ..., "count": ..., "prediction_ms": {"median": ...}}]}',
        fix="write it as shown in docs/devices.md, section iPhone",
    )
