"""The data of a run's folder, and accessors for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import Fault, RecipeError
from edgekd.evidence.routing import DECISIONS
from edgekd.system.toml import read_toml


@dataclass(frozen=True)
class RunData:
    """The data of a run's folder.

    Attributes:
        result, recipe, environment: the documents of these names.
        curves: by training, the records of its epochs.
        samples_ms: by target and candidate, every latency sample.
        decisions: by "TARGET-CANDIDATE", its decisions on the samples.
        layers: by "TARGET-CANDIDATE", the quantization error of each layer.
    """

    folder: Path
    result: Mapping[str, Any]
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    curves: Mapping[str, list[dict[str, Any]]]
    samples_ms: Mapping[str, Mapping[str, list[float]]]
    decisions: Mapping[str, Mapping[str, Any]]
    layers: Mapping[str, list[dict[str, Any]]]


def read_run(folder: Path) -> RunData:
    """The run in `folder`.

    Raises:
        RecipeError: the folder is not of a run, or the run did not finish.
    """
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        for row in result["rows"]:
            row["candidate"]  # Runs of edgekd before 0.1 have other keys.
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecipeError(
            Fault(
                what=f"{folder} is not the folder of a finished run.",
                at=str(folder / "result.json"),
                got=f"{type(error).__name__}: {error}",
                expected="a folder that edgekd run wrote, such as runs/NAME/latest",
                fix="run the recipe again: it continues where it stopped",
            )
        ) from error
    curves = {}
    for stage in ("train", "distill"):
        for path in sorted(folder.glob(f"{stage}/**/history.jsonl")):
            name = path.parent.relative_to(folder).as_posix()
            curves[name] = [json.loads(line) for line in path.read_text().splitlines()]
    samples: dict[str, dict[str, list[float]]] = {}
    for path in sorted(folder.glob("benchmark/*/*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(document, dict) and "samples_ns" in document:
            times = [ns / 1e6 for process in document["samples_ns"] for ns in process]
            if times:  # A tool that reports a summary keeps no samples.
                samples.setdefault(path.parent.name, {})[path.stem] = times
    recipe = read_toml(folder / "recipe.toml")
    decisions = {}
    for path in sorted(folder.glob(f"verify/*/{DECISIONS}")):
        with np.load(path, allow_pickle=False) as file:
            decisions[path.parent.name] = {name: file[name] for name in file.files}
    layers = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))["layers"]
        for path in sorted(folder.glob("sensitivity/*/sensitivity.json"))
    }
    return RunData(
        folder.resolve(), result, recipe, environment, curves, samples, decisions, layers
    )


def name_of(row: Mapping[str, Any]) -> str:
    """The name of a row's candidate."""
    return str(row["candidate"])


def ships(run: RunData, row: Mapping[str, Any]) -> bool:
    """Whether the candidate of `row` ships."""
    choice = run.result["chosen"].get(row["target"])
    return bool(choice) and choice["candidate"] == row["candidate"]


def figure_of(row: Mapping[str, Any], part: str, key: str) -> float | None:
    """The number `row[part][key]`; None if the row does not have it."""
    table = row.get(part)
    value = table.get(key) if table else None
    return float(value) if value is not None else None


def shown(value: float | None, form: str) -> str:
    """`value` in a format such as ".4f"; empty if it is None."""
    return "" if value is None else format(value, form)


def targets_of(run: RunData) -> list[str]:
    """The names of a run's targets."""
    return list(dict.fromkeys(row["target"] for row in run.result["rows"]))


def budget_of(run: RunData, target: str) -> dict[str, float]:
    """The budget of a target in the run's recipe."""
    for entry in run.recipe.get("targets", []):
        if Path(entry["name"]).stem == target:
            return dict(entry.get("budget", {}))
    return {}
