"""The device's reply to a job: read by types, so that a bad answer fails its own artifact only.

A board, a vendor's tool or a third party's connection writes the reply. Whatever does not fit makes
that artifact's result a failure with the outcome `run-failed`; the other artifacts keep theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.devices.on_device.agent import VERSION
from edgekd.devices.reply_values import (
    TEXT_CHARS,
    MisfitError,
    as_list,
    as_number,
    as_object,
    as_time,
    cleaned,
    is_count,
    optional_count,
    read_json,
    short,
)
from edgekd.errors import Fault, UnreachableError, listed, printable
from edgekd.evidence.outcome import Outcome
from edgekd.system.npz import read_npz

ARRAYS_BYTES = 2**31
"""The most that compressed outputs may take in memory. Stored ones are as large as their file."""
READING_CHARS = 100_000
FAILURES = (
    Outcome.UNAVAILABLE, Outcome.LOAD_FAILED, Outcome.RUN_FAILED, Outcome.FELL_BACK,
    Outcome.DISAGREES,
)  # fmt: skip
"""The outcomes that a device can report."""
IDENTITY = ("machine", "processor", "model", "kernel", "system", "serial_sha256", "governor")
"""Facts about a device that are a text or null."""


@dataclass(frozen=True)
class Report:
    """The agent's report: `results` and `outputs` by artifact, and facts about the device.

    Attributes:
        readings: of the device's sensors before, during and after a measurement.
        start_ns: time from the start of the agent's process to its first line; None if the system
            does not report it.
    """

    results: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Mapping[str, Any]]
    device: Mapping[str, Any]
    peak_memory_bytes: int | None
    readings: Sequence[Mapping[str, Any]] = ()
    start_ns: int | None = None


def read_report(
    url: str, folder: Path, action: str, artifacts: Iterable[str], *, timed: bool = True
) -> Report:
    """The reply to a job in `folder`: report.json, and for the action "run" the outputs.

    Args:
        artifacts: the names of the job's artifacts. Each has a result in the report that is
            returned; one that does not fit is a failure.
        timed: whether the action "time" was to collect latencies, not only to load the files.

    Raises:
        UnreachableError: the report is that of another version of the agent.
    """
    names = list(artifacts)
    try:
        document = as_object(read_json(folder / "report.json"), "report.json")
    except MisfitError as error:
        return _all_failed(names, error)
    version = document.get("version")
    if version != VERSION or isinstance(version, bool):
        raise UnreachableError(_another_version(url, version))
    try:
        device = _device(document.get("device"))
        peak = optional_count(document, "peak_memory_bytes")
        start_ns = optional_count(document, "start_ns")
        replies = as_object(document.get("results"), "results")
        readings = _readings(document.get("readings") or [])
    except MisfitError as error:
        return _all_failed(names, error)
    results: dict[str, Mapping[str, Any]] = {}
    outputs: dict[str, Mapping[str, Any]] = {}
    for name in names:
        outputs[name] = {}
        try:
            results[name] = _result(replies.get(name), action, timed=timed)
            if action == "run" and results[name]["failure"] is None:
                outputs[name] = _outputs(folder / f"outputs-{name}.npz", results[name]["outputs"])
        except MisfitError as error:
            results[name] = _failed(error)
    return Report(_interleaved(results), outputs, device, peak, readings, start_ns)


def _all_failed(names: Sequence[str], error: MisfitError) -> Report:
    device = {"machine": None, "processor": None}
    return Report(
        {name: _failed(error) for name in names}, {name: {} for name in names}, device, None
    )


def _failed(error: MisfitError) -> dict[str, Any]:
    detail = printable(f"the device's reply does not fit: {error}")[:TEXT_CHARS]
    return {"failure": {"outcome": Outcome.RUN_FAILED.value, "detail": detail}}


def _another_version(url: str, version: object) -> Fault:
    return Fault(
        what="The device returned a report of another version of the agent.",
        at=f"device {url}",
        got=f"version {short(version)}",
        expected=f"version {VERSION}, that of the agent that was sent there",
        fix="let the device's connection run the agent.py that is in the job's folder",
    )


def _result(reply: Any, action: str, *, timed: bool) -> dict[str, Any]:
    """The result of an artifact, with every key that its readers use."""
    if reply is None:
        raise MisfitError("report.json has no result of the artifact")
    result = as_object(reply, "the result")
    failure = result.get("failure")
    checked = {"failure": None if failure is None else _failure(failure)}
    if failure is None or "inputs" in result or "outputs" in result:
        checked |= _interface(result, required=failure is None and action == "run")
    checked["facts"] = cleaned(as_object(result.get("facts", {}), "facts"), "facts")
    if failure is not None:
        return checked
    if action == "time":
        return checked | _latencies(result, timed=timed)
    if action == "count":
        count = as_object(result.get("instructions"), "instructions")
        per_inference = as_number(count.get("per_inference"), "instructions.per_inference")
        if per_inference < 1:
            raise MisfitError(f"instructions.per_inference is {per_inference}")
        return checked | {"instructions": cleaned(count, "instructions")}
    return checked


def _failure(failure: Any) -> dict[str, str]:
    entry = as_object(failure, "failure")
    outcome, detail = entry.get("outcome"), entry.get("detail")
    allowed = [known.value for known in FAILURES]
    if outcome not in allowed:
        raise MisfitError(f"the outcome {short(outcome)} is not {listed(allowed)}")
    if not isinstance(detail, str):
        raise MisfitError(f"failure.detail is {short(detail)}, not a text")
    return {"outcome": outcome, "detail": printable(detail)[:TEXT_CHARS]}


def _interface(result: Mapping[str, Any], *, required: bool) -> dict[str, Any]:
    """The inputs (name, shape, data type) and the names of the outputs, if they are reported."""
    checked: dict[str, Any] = {}
    if required or "inputs" in result:
        inputs = as_list(result.get("inputs"), "inputs")
        fits = all(
            isinstance(entry, list)
            and len(entry) == 3
            and isinstance(entry[0], str)
            and isinstance(entry[1], list)
            and all(
                size is None or isinstance(size, str) or is_count(size) or size == -1
                for size in entry[1]
            )
            and isinstance(entry[2], str)
            for entry in inputs
        )
        if not fits:
            raise MisfitError(f"inputs is {short(inputs)}, not a list of name, shape, data type")
        checked["inputs"] = inputs
    if required or "outputs" in result:
        names = as_list(result.get("outputs"), "outputs")
        if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise MisfitError(f"outputs is {short(names)}, not a list of names")
        checked["outputs"] = names
    return checked


def _latencies(result: Mapping[str, Any], *, timed: bool) -> dict[str, Any]:
    import_ns = result.get("import_ns")
    checked: dict[str, Any] = {
        "import_ns": None if import_ns is None else as_time(import_ns, "import_ns", least=0),
        "init_ns": as_time(result.get("init_ns"), "init_ns", least=0),
        "first_ns": as_time(result.get("first_ns"), "first_ns", least=0),
    }
    if "told" in result:
        checked["told"] = _summarized(as_object(result["told"], "told"))
    elif "blocks_ns" in result or timed:
        blocks = as_list(result.get("blocks_ns"), "blocks_ns")
        checked["blocks_ns"] = [
            [as_time(ns, f"blocks_ns[{number}]", least=1) for ns in as_list(block, "a block")]
            for number, block in enumerate(blocks)
        ]
        if not blocks or not all(checked["blocks_ns"]):
            raise MisfitError("blocks_ns has no latencies")
    elif not timed:
        return checked
    if not isinstance(result.get("settled"), bool):
        raise MisfitError(f"settled is {short(result.get('settled'))}, not true or false")
    warm_up_count = result.get("warm_up_count")
    if not is_count(warm_up_count):
        raise MisfitError(f"warm_up_count is {short(warm_up_count)}, not a count")
    return {**checked, "settled": result["settled"], "warm_up_count": warm_up_count}


def _summarized(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a tool that reports no samples."""
    count, mean_ms = summary.get("count"), summary.get("mean_ms")
    if not is_count(count) or not count:
        raise MisfitError(f"told.count is {short(count)}, not a number of inferences")
    figures = []
    for entry in as_list(summary.get("figures"), "told.figures"):
        if not isinstance(entry, list) or len(entry) != 2:
            raise MisfitError(f"told.figures has {short(entry)}, not a share and its latency")
        share, ms = (as_number(value, "told.figures") for value in entry)
        if not 0 <= share <= 1 or ms <= 0:
            raise MisfitError(f"told.figures has {short(entry)}, not a share and its latency")
        figures.append([share, ms])
    latencies = [ms for _, ms in figures]
    if not figures or figures != sorted(figures) or latencies != sorted(latencies):
        raise MisfitError(f"told.figures does not ascend: {short(figures)}")
    return {
        "count": count,
        "figures": figures,
        "mean_ms": None if mean_ms is None else as_time(mean_ms, "told.mean_ms", least=0),
    }


def _interleaved(results: dict[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """`results`; an artifact with another number of blocks than most is a failure.

    Blocks of artifacts that were timed together are compared in pairs.
    """
    counts = {name: len(result["blocks_ns"]) for name, result in results.items()
              if "blocks_ns" in result}  # fmt: skip
    if len(set(counts.values())) < 2:
        return results
    common = Counter(counts.values()).most_common(1)[0][0]
    return {
        name: _failed(MisfitError(f"it has {counts[name]} blocks of latencies, others {common}"))
        if counts.get(name, common) != common
        else result
        for name, result in results.items()
    }


def _device(facts: Any) -> dict[str, Any]:
    device: dict[str, Any] = cleaned(as_object(facts, "device"), "device")
    for name in IDENTITY:
        if not isinstance(device.get(name), str | None):
            raise MisfitError(f"device.{name} is {short(device[name])}, not a text")
    if not isinstance(device.get("cpu_count"), int | None):
        raise MisfitError(f"device.cpu_count is {short(device['cpu_count'])}, not a number")
    return {"machine": None, "processor": None, **device}


def _readings(readings: Any) -> list[dict[str, Any]]:
    """The sensor readings; one that does not fit has no values, and a text that says so."""
    checked: list[dict[str, Any]] = []
    for reading in as_list(readings, "readings"):
        try:
            checked.append(_reading(as_object(reading, "a reading")))
        except MisfitError as error:
            at_s = checked[-1]["at_s"] if checked else 0.0
            texts = {"reading": f"not understood: {error}"}
            checked.append({"at_s": at_s, "load_average": None, "cpu": None, "texts": texts})
    return checked


def _reading(reading: Mapping[str, Any]) -> dict[str, Any]:
    load, cpu = reading.get("load_average"), reading.get("cpu")
    if cpu is not None and not is_count(cpu):
        raise MisfitError(f"cpu is {short(cpu)}")
    texts = as_object(reading.get("texts"), "texts")
    if not all(isinstance(text, str) for text in texts.values()):
        raise MisfitError("texts has a value that is not a text")
    return {
        "at_s": as_number(reading.get("at_s"), "at_s"),
        "load_average": None if load is None else as_number(load, "load_average"),
        "cpu": cpu,
        "texts": {
            printable(source)[:TEXT_CHARS]: printable(text.replace("\r\n", "\n"))[:READING_CHARS]
            for source, text in texts.items()
        },
    }


def _outputs(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """The arrays that the artifact returned, by name."""
    if not path.is_file():
        raise MisfitError(f"there is no {path.name}")
    try:
        arrays = read_npz(path, ARRAYS_BYTES)
    except Exception as error:
        # zipfile and numpy raise errors of a dozen types for a damaged file.
        raise MisfitError(f"{path.name} cannot be read: {type(error).__name__}: {error}") from error
    for name, array in arrays.items():
        if not array.ndim:
            raise MisfitError(f"the output {name!r} is a single number, not samples first")
    missing = [name for name in names if name not in arrays]
    if missing or not arrays:
        raise MisfitError(f"{path.name} lacks the output {missing[0] if missing else ''!r}")
    return arrays
