"""TensorRT on a Jetson through its own `trtexec`: its arguments, and parsers of its output.

The engine is built on the board. All samples are kept: trtexec exports the latency of every
inference in order, from the first one and the warm-up on. Its latency is that of the computation
and, in versions that time them, of the transfers. Artifacts alternate as whole runs, not blocks.

Source: NVIDIA/TensorRT, samples/common/sampleReporting.cpp and sampleOptions.cpp, of versions 8.2,
8.6 and 10: the summary, the exported times and the exported outputs. The older summary, of JetPack
4's TensorRT 7 and 8.0, is known from recorded logs.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.devices.on_device import ON_DEVICE
from edgekd.devices.on_device.agent import VERSION
from edgekd.devices.reply_values import MisfitError, as_list, as_object, read_json
from edgekd.devices.telemetry.jetson import parse_tegrastats
from edgekd.errors import Fault, RefusedError, UnreachableError
from edgekd.system.packages import need

RESULTS = r"done\.json|(log|times|out|power)-[A-Za-z0-9_.-]+"
WARM_UP_MS = 500
UNREADABLE = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError,
    MemoryError,
)  # fmt: skip
"""Errors of reading a tool's output that has other contents."""
TOTAL_RAILS = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0", "VIN")
"""Rails that power a whole module, by board. Source: NVIDIA Jetson Linux Developer Guide, the
rails of each module's power monitor."""


@dataclass(frozen=True)
class TrtexecSummary:
    """The summary of a run; None is a value that its version does not print.

    Attributes:
        version: of TensorRT, "10.3.0".
        metrics: in ms by name ("Latency", "GPU Compute Time"): min, max, mean, median, p99.
        build_s: building the engine; load_s: reading a built one, as an app does.
        unstable: its warning that latencies vary too much.
    """

    version: str | None
    throughput_qps: float | None
    metrics: Mapping[str, Mapping[str, float]]
    build_s: float | None
    load_s: float | None
    unstable: str | None


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|inf|nan"
_STAMP = re.compile(r"^(?:\[[^\]]*\] )*(?:\[[VIWEF]\] ?)?(?:\[TRT\] )?")
_METRIC = re.compile(r"(Latency|[\w-]+(?: [\w-]+)* (?:Time|Latency)): (min = .*)")
_FIGURE = re.compile(rf"(min|max|mean|median|percentile\((\d+)%\)) = ({_NUMBER}) ms")
_OLD_HEAD = {"Host Latency": "Latency", "Enqueue Time": "Enqueue Time",
             "GPU Compute": "GPU Compute Time"}  # fmt: skip
_OLD_FIGURE = re.compile(rf"(min|max|mean|median|percentile): ({_NUMBER}) ms(?: at (\d+)%)?")


def parse_trtexec(text: str) -> TrtexecSummary:
    """Parse the output of a run.

    Raises:
        ValueError: there is no summary.
    """
    metrics: dict[str, dict[str, float]] = {}
    head = None
    for line in (_STAMP.sub("", line).strip() for line in text.splitlines()):
        if match := _METRIC.fullmatch(line):
            figures = _FIGURE.findall(match[2])
            metrics[match[1]] = {_figure_name(n, p): float(value) for n, p, value in figures}
        elif line in _OLD_HEAD:
            head = _OLD_HEAD[line]
        elif head is not None and (match := _OLD_FIGURE.match(line)):
            metrics.setdefault(head, {})[_figure_name(match[1], match[3] or "99")] = float(match[2])
    if "Latency" not in metrics:
        lines = [line for line in text.splitlines() if re.search(r"\[E\]|&&&& FAILED|rror", line)]
        raise ValueError(" | ".join(line.strip()[:300] for line in lines[-3:]) or text[-300:])
    version = re.search(r"TensorRT v(\d+)\]|TensorRT version: (\d+\.\d+\.\d+)", text)
    unstable = re.search(r"(GPU compute time is unstable[^\n]*)", text)
    return TrtexecSummary(
        version=_dotted(version) if version else None,
        throughput_qps=_number(rf"[Tt]hroughput: ({_NUMBER}) qps", text),
        metrics=metrics,
        build_s=_number(rf"Engine built in ({_NUMBER}) sec", text),
        load_s=_number(rf"Engine (?:deserialized|loaded) in ({_NUMBER}) sec", text),
        unstable=unstable[1].strip() if unstable else None,
    )


def _figure_name(name: str, percent: str) -> str:
    return f"p{percent}" if name.startswith("percentile") else name


def _number(pattern: str, text: str) -> float | None:
    match = re.search(pattern, text)
    return float(match[1]) if match else None


def _dotted(match: re.Match[str]) -> str:
    """8201 is 8.2.1, and 100300 is 10.3.0: two digits per part from version 10 on."""
    if match[2]:
        return match[2]
    number = match[1]
    parts = (number[:-4], number[-4:-2], number[-2:]) if len(number) > 5 else (
        number[0], number[1], number[2:])  # fmt: skip
    return ".".join(str(int(part or "0")) for part in parts)


def module_rails(rails: Iterable[str]) -> list[str]:
    """The rails whose sum is the power of the whole module."""
    known = set(rails)
    return next(([rail] for rail in TOTAL_RAILS if rail in known), sorted(known))


def power_mw(lines: Sequence[str]) -> tuple[float, str] | None:
    """The mean power of the whole module over lines of tegrastats, and the rails it is the sum of.

    The rail is the module's input if the board reports it, else all rails are added.
    """
    readings = [power for line in lines if (power := parse_tegrastats(line).power)]
    if not readings:
        return None
    rails = module_rails(readings[0])
    sums = [sum(power[rail].now_mw for rail in rails if rail in power) for power in readings]
    return statistics.fmean(sums), " + ".join(rails)


def prepare(url: str, folder: Path, job: Mapping[str, Any], program: str) -> None:
    """Write the driver's plan, and the inputs in the form that trtexec reads, beside the job.

    Raises:
        RefusedError: TensorRT cannot take the artifacts.
    """
    if job["runtime"] != "onnxruntime" or job["action"] not in ("run", "time"):
        raise RefusedError(
            Fault(
                what="TensorRT cannot take this artifact.",
                at=f"device {url}",
                got=f"{job['action']} {job['runtime']}",
                expected="an ONNX file to run or to time",
                fix="use a target whose format is onnx, such as jetson-orin-nano-tensorrt",
            )
        )
    plans: dict[str, list[list[str]]] = {}
    output_types, input_specs = {}, {}
    for entry in job["artifacts"]:
        name = entry["name"]
        inputs, output_types[name], flags = _model_facts(folder / entry["path"])
        input_specs[name] = [[key, *spec] for key, spec in inputs.items()]
        feeds = _feeds(folder, job, entry, inputs)
        count = max(1, len(feeds)) if job["action"] == "run" else 1
        plans[name] = []
        for number in range(count):
            args = [f"--onnx={entry['path']}", *flags, "--timingCacheFile={cache}/tensorrt.cache"]
            args += [f"--saveEngine={name}.engine"] * (count > 1)
            if number > 0:
                args = [f"--loadEngine={name}.engine"]
            args += feeds[number] if feeds else []
            if job["action"] == "run":
                args += ["--iterations=1", "--duration=0", "--warmUp=0", "--avgRuns=1"]
                args += [f"--exportOutput=out-{name}-{number}.json"]
            else:
                duration_s, warm_up_ms = math.ceil(job["seconds"]), WARM_UP_MS
                if not job["runs"]:  # The job is to load the file and run it once.
                    duration_s = warm_up_ms = 0
                args += [f"--iterations={max(1, job['runs'])}", f"--duration={duration_s}"]
                args += [f"--warmUp={warm_up_ms}", f"--exportTimes=times-{name}-{number}.json"]
            plans[name].append(args)
    plan = {"program": program, "watch": job["action"] == "time", "artifacts": plans}
    plan |= {"kinds": output_types, "inputs": input_specs}
    (folder / "trtexec.json").write_text(json.dumps(plan))
    (folder / "trtexec_driver.py").write_bytes((ON_DEVICE / "trtexec_driver.py").read_bytes())


def _model_facts(path: Path) -> tuple[dict[str, tuple[list[Any], str]], dict[str, str], list[str]]:
    """Shape and type of each input of an ONNX file, type of each output, and precision flags.

    The flags allow the engine the precisions that the file has beside float32.
    """
    onnx = need("onnx", extra="onnx")
    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {entry.name for entry in graph.initializer}
    shapes = {
        entry.name: [dim.dim_value or None for dim in entry.type.tensor_type.shape.dim]
        for entry in graph.input
    }
    dtypes = {
        entry.name: onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type).name
        for entry in [*graph.input, *graph.output]
    }
    inputs = {name: (shapes[name], dtypes[name]) for name in shapes if name not in weights}
    quantized = any(node.op_type == "QuantizeLinear" for node in graph.node)
    halves = any(entry.data_type == onnx.TensorProto.FLOAT16 for entry in graph.initializer)
    flags = ["--int8"] * quantized + ["--fp16"] * (quantized or halves)
    return inputs, {entry.name: dtypes[entry.name] for entry in graph.output}, flags


def _feeds(
    folder: Path, job: Mapping[str, Any], entry: Mapping[str, Any],
    inputs: Mapping[str, tuple[list[Any], str]],
) -> list[list[str]]:  # fmt: skip
    """Write each batch of the samples to files; returns the flags that name them to trtexec."""
    import numpy as np

    archive = entry.get("inputs", job["inputs"])
    if not archive:
        return []
    with np.load(folder / archive, allow_pickle=False) as file:
        samples = {name: file[name] for name in file.files}
    for name in entry.get("channels_last", ()):
        samples[name] = np.moveaxis(samples[name], 1, -1)
    batch = entry.get("batch", 1)
    count = len(next(iter(samples.values())))
    feeds = []
    for number, start in enumerate(range(0, count, batch)):
        files, shapes = [], []
        for index, (name, (shape, dtype)) in enumerate(inputs.items()):
            value = np.ascontiguousarray(samples[name][start : start + batch].astype(dtype))
            path = f"feed-{entry['name']}-{number}-{index}.bin"
            (folder / path).write_bytes(value.tobytes())
            # Names may contain the separators.
            quoted = f"'{name}'" if re.search(r"[:,]", name) else name
            files.append(f"{quoted}:{path}")
            if None in shape:
                shapes.append(f"{quoted}:{'x'.join(map(str, value.shape))}")
        args = [f"--loadInputs={','.join(files)}"]
        feeds.append(args + ([f"--shapes={','.join(shapes)}"] if shapes else []))
    return feeds


def conclude(url: str, folder: Path, job: Mapping[str, Any]) -> None:
    """Write the report and the outputs, as the agent does, from the driver's results.

    Raises:
        UnreachableError: there are no results.
    """
    try:
        done = as_object(read_json(folder / "done.json"), "done.json")
        all_codes = as_object(done.get("codes"), "codes")
    except MisfitError as error:
        raise UnreachableError(
            Fault(
                what=f"The device {url} returned no results.",
                at=url,
                got=str(error),
                expected="the output of trtexec",
                fix="run trtexec there by hand",
            )
        ) from error
    plan = json.loads((folder / "trtexec.json").read_text())
    results = {}
    for entry in job["artifacts"]:
        name, codes, log = entry["name"], [None], ""
        try:
            codes = as_list(all_codes.get(entry["name"]), "codes") or [None]
            log = (folder / f"log-{name}-{len(codes) - 1}.txt").read_text(errors="replace")
            summary = parse_trtexec((folder / f"log-{name}-0.txt").read_text(errors="replace"))
            if codes[-1] != 0:
                raise ValueError(log[-300:].strip())
            results[name] = (
                _latencies(folder, name, summary, WARM_UP_MS if job["runs"] else 0)
                if job["action"] == "time"
                else _outputs(folder, name, summary, len(codes), plan["kinds"][name])
            )
            results[name]["inputs"] = plan["inputs"][name]
        except (*UNREADABLE, OSError) as error:
            detail = f"trtexec, exit status {codes[-1]}: {' '.join(str(error).split())}"[:500]
            built = "Engine built" in log or "Starting inference" in log
            outcome = "run-failed" if built else "load-failed"
            results[name] = {"failure": {"outcome": outcome, "detail": detail}}
    report = {
        "version": VERSION,
        "results": results,
        "peak_memory_bytes": None,
        "device": done.get("device"),
    }
    (folder / "report.json").write_text(json.dumps(report))


def _facts(summary: TrtexecSummary) -> dict[str, Any]:
    facts: dict[str, Any] = {"runtime": "tensorrt", "version": summary.version, "tool": "trtexec"}
    facts["build_s"] = summary.build_s
    if summary.unstable:
        facts["unstable"] = summary.unstable
    return facts


def _latencies(
    folder: Path, name: str, summary: TrtexecSummary, warm_up_ms: float
) -> dict[str, Any]:
    """A timing result in the agent's form; the whole run is one block."""
    trace = json.loads((folder / f"times-{name}-0.json").read_text())
    times_ns = [round(event["latencyMs"] * 1e6) for event in trace]
    warm = sum(event["startComputeMs"] < warm_up_ms for event in trace)
    if warm >= len(trace):
        raise ValueError("trtexec timed nothing after its warm-up")
    facts = _facts(summary)
    transfers_ms = statistics.fmean(event["h2dMs"] + event["d2hMs"] for event in trace[warm:])
    facts["transfers_ms"] = transfers_ms
    power = power_mw(json.loads((folder / f"power-{name}-0.json").read_text()))
    if power is not None and summary.throughput_qps:
        facts["power_mw"], facts["power_rails"] = power
        facts["energy_mj"] = power[0] / summary.throughput_qps
    return {
        "import_ns": None,
        # An app loads a built engine; versions that do not report that time report the build's.
        "init_ns": round((summary.load_s or summary.build_s or 0.0) * 1e9),
        "first_ns": times_ns[0],
        "warm_up_count": warm,
        "settled": True,  # It warms up for a fixed time and does not report more.
        "blocks_ns": [times_ns[warm:]],
        "facts": facts,
        "failure": None,
    }


def _outputs(
    folder: Path, name: str, summary: TrtexecSummary, count: int, dtypes: Mapping[str, str]
) -> dict[str, Any]:
    """A run result in the agent's form; the outputs of its samples are written beside it.

    trtexec writes six digits of a number, so the seventh of a float32 is lost.
    """
    import numpy as np

    batches: dict[str, list[Any]] = {key: [] for key in dtypes}
    for number in range(count):
        text = (folder / f"out-{name}-{number}.json").read_text()
        # C++ writes nan and inf, which JSON does not have.
        text = re.sub(r"(?<=[\[,\s])(-?)(nan|inf)(?=[\],\s])", _in_json, text)
        entries = {entry["name"]: entry for entry in json.loads(text)}
        for key, values in batches.items():
            shape = [int(size) for size in entries[key]["dimensions"].split("x") if size]
            values.append(np.asarray(entries[key]["values"], dtype=dtypes[key]).reshape(shape))
    arrays: dict[str, Any] = {key: np.concatenate(values) for key, values in batches.items()}
    np.savez(folder / f"outputs-{name}.npz", **arrays)
    return {"init_ns": 0, "facts": _facts(summary), "failure": None, "outputs": list(arrays)}


def _in_json(match: re.Match[str]) -> str:
    return match[1] + {"nan": "NaN", "inf": "Infinity"}[match[2]]
