"""TensorRT on a Jetson by its own `trtexec`: what to call it with, and what it said.

The engine is built on the board, as it must be. Every inference's time is kept: trtexec exports
them in order, the first one and those of its warm-up too. What it calls latency is the transfers,
where that version times them, and the computation. Artifacts take turns as whole runs, not blocks.

Source: NVIDIA/TensorRT, samples/common/sampleReporting.cpp and sampleOptions.cpp, of versions 8.2,
8.6 and 10: the summary, the exported times and the exported outputs. The older summary, of JetPack
4's TensorRT 7 and 8.0, is by its recorded logs.
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
from edgekd.devices.telemetry.jetson import parse_tegrastats
from edgekd.errors import Fault, RefusedError, UnreachableError
from edgekd.system.packages import need

RESULTS = r"done\.json|(log|times|out|power)-[A-Za-z0-9_.-]+"
WARM_UP_MS = 500
TOTAL_RAILS = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0", "VIN")
"""What the whole module draws, by board. Source: NVIDIA Jetson Linux Developer Guide, the rails of
each module's power monitor."""


@dataclass(frozen=True)
class TrtexecSummary:
    """What a run of trtexec says of itself; None is what its version does not tell.

    Attributes:
        version: of TensorRT, "10.3.0".
        metrics: in ms by name ("Latency", "GPU Compute Time"): min, max, mean, median, p99.
        build_s: building the engine; load_s: reading a built one, as an app does.
        unstable: its own words, where its times spread too far for it.
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
    """The run that printed `text`.

    Raises:
        ValueError: it did not come to a summary.
    """
    metrics: dict[str, dict[str, float]] = {}
    head = None
    for line in (_STAMP.sub("", line).strip() for line in text.splitlines()):
        if match := _METRIC.fullmatch(line):
            figures = _FIGURE.findall(match[2])
            metrics[match[1]] = {_name(n, p): float(value) for n, p, value in figures}
        elif line in _OLD_HEAD:
            head = _OLD_HEAD[line]
        elif head is not None and (match := _OLD_FIGURE.match(line)):
            metrics.setdefault(head, {})[_name(match[1], match[3] or "99")] = float(match[2])
    if "Latency" not in metrics:
        lines = [line for line in text.splitlines() if re.search(r"\[E\]|&&&& FAILED|rror", line)]
        raise ValueError(" | ".join(line.strip()[:300] for line in lines[-3:]) or text[-300:])
    version = re.search(r"TensorRT v(\d+)\]|TensorRT version: (\d+\.\d+\.\d+)", text)
    unstable = re.search(r"(GPU compute time is unstable[^\n]*)", text)
    return TrtexecSummary(
        version=_dotted(version) if version else None,
        throughput_qps=_found(rf"[Tt]hroughput: ({_NUMBER}) qps", text),
        metrics=metrics,
        build_s=_found(rf"Engine built in ({_NUMBER}) sec", text),
        load_s=_found(rf"Engine (?:deserialized|loaded) in ({_NUMBER}) sec", text),
        unstable=unstable[1].strip() if unstable else None,
    )


def _name(name: str, percent: str) -> str:
    return f"p{percent}" if name.startswith("percentile") else name


def _found(pattern: str, text: str) -> float | None:
    match = re.search(pattern, text)
    return float(match[1]) if match else None


def _dotted(match: re.Match[str]) -> str:
    """8201 is 8.2.1, and 100300 is 10.3.0: two digits a part from version 10 on."""
    if match[2]:
        return match[2]
    number = match[1]
    parts = (number[:-4], number[-4:-2], number[-2:]) if len(number) > 5 else (
        number[0], number[1], number[2:])  # fmt: skip
    return ".".join(str(int(part or "0")) for part in parts)


def module_rails(rails: Iterable[str]) -> list[str]:
    """Of the rails that a board tells, those whose sum the whole module draws."""
    told = set(rails)
    return next(([rail] for rail in TOTAL_RAILS if rail in told), sorted(told))


def power_mw(lines: Sequence[str]) -> tuple[float, str] | None:
    """The mean power of the whole module over lines of tegrastats, and the rails it is of.

    That of its input where the board tells it, else the sum of all its rails.
    """
    read = [found for line in lines if (found := parse_tegrastats(line)).power]
    if not read:
        return None
    chosen = module_rails(read[0].power)
    means = [sum(each.power[r].now_mw for r in chosen if r in each.power) for each in read]
    return statistics.fmean(means), " + ".join(chosen)


def prepare(url: str, folder: Path, job: Mapping[str, Any], program: str) -> None:
    """Writes what the driver is to call, and the inputs as trtexec reads them, beside the job.

    Raises:
        RefusedError: the artifacts are none of TensorRT's.
    """
    if job["runtime"] != "onnxruntime" or job["action"] not in ("run", "time"):
        raise RefusedError(
            Fault(
                what="TensorRT does not take this artifact.",
                at=f"device {url}",
                got=f"{job['action']} {job['runtime']}",
                expected="an ONNX file to run or to time",
                fix="take a target of ONNX files: jetson-orin-nano-tensorrt",
            )
        )
    plans, kinds, given = {}, {}, {}
    for entry in job["artifacts"]:
        inputs, kinds[entry["name"]], flags = _asked(folder / entry["path"])
        given[entry["name"]] = [[name, *told] for name, told in inputs.items()]
        feeds = _feeds(folder, job, entry, inputs)
        count = max(1, len(feeds)) if job["action"] == "run" else 1
        name, runs = entry["name"], []
        for number in range(count):
            words = [f"--onnx={entry['path']}", *flags, "--timingCacheFile={cache}/tensorrt.cache"]
            words += [f"--saveEngine={name}.engine"] * (count > 1)
            if number > 0:
                words = [f"--loadEngine={name}.engine"]
            words += feeds[number] if feeds else []
            if job["action"] == "run":
                words += ["--iterations=1", "--duration=0", "--warmUp=0", "--avgRuns=1"]
                words += [f"--exportOutput=out-{name}-{number}.json"]
            else:
                least_s, warm_ms = math.ceil(job["seconds"]), WARM_UP_MS
                if not job["runs"]:  # It is to load, and to run once.
                    least_s = warm_ms = 0
                words += [f"--iterations={max(1, job['runs'])}", f"--duration={least_s}"]
                words += [f"--warmUp={warm_ms}", f"--exportTimes=times-{name}-{number}.json"]
            runs.append(words)
        plans[name] = runs
    plan = {"program": program, "watch": job["action"] == "time", "artifacts": plans}
    plan |= {"kinds": kinds, "inputs": given}
    (folder / "trtexec.json").write_text(json.dumps(plan))
    (folder / "trtexec_driver.py").write_bytes((ON_DEVICE / "trtexec_driver.py").read_bytes())


def _asked(path: Path) -> tuple[dict[str, tuple[list[Any], str]], dict[str, str], list[str]]:
    """Of an ONNX file: shape and type of each input, type of each output, and the precisions that
    its engine may take beside float32."""
    onnx = need("onnx", extra="onnx")
    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {entry.name for entry in graph.initializer}
    shapes = {
        entry.name: [dim.dim_value or None for dim in entry.type.tensor_type.shape.dim]
        for entry in graph.input
    }
    kinds = {
        entry.name: onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type).name
        for entry in [*graph.input, *graph.output]
    }
    inputs = {name: (shapes[name], kinds[name]) for name in shapes if name not in weights}
    quantized = any(node.op_type == "QuantizeLinear" for node in graph.node)
    halves = any(entry.data_type == onnx.TensorProto.FLOAT16 for entry in graph.initializer)
    flags = ["--int8"] * quantized + ["--fp16"] * (quantized or halves)
    return inputs, {entry.name: kinds[entry.name] for entry in graph.output}, flags


def _feeds(
    folder: Path, job: Mapping[str, Any], entry: Mapping[str, Any],
    inputs: Mapping[str, tuple[list[Any], str]],
) -> list[list[str]]:  # fmt: skip
    """For each batch of the samples, the words that give it to trtexec; written to files."""
    import numpy as np

    place = entry.get("inputs", job["inputs"])
    if not place:
        return []
    with np.load(folder / place, allow_pickle=False) as file:
        samples = {name: file[name] for name in file.files}
    for name in entry.get("channels_last", ()):
        samples[name] = np.moveaxis(samples[name], 1, -1)
    batch = entry.get("batch", 1)
    count = len(next(iter(samples.values())))
    feeds = []
    for number, start in enumerate(range(0, count, batch)):
        files, shapes = [], []
        for place, (name, (shape, kind)) in enumerate(inputs.items()):
            value = np.ascontiguousarray(samples[name][start : start + batch].astype(kind))
            path = f"feed-{entry['name']}-{number}-{place}.bin"
            (folder / path).write_bytes(value.tobytes())
            # Names may hold what separates them.
            quoted = f"'{name}'" if re.search(r"[:,]", name) else name
            files.append(f"{quoted}:{path}")
            if None in shape:
                shapes.append(f"{quoted}:{'x'.join(map(str, value.shape))}")
        words = [f"--loadInputs={','.join(files)}"]
        feeds.append(words + ([f"--shapes={','.join(shapes)}"] if shapes else []))
    return feeds


def conclude(url: str, folder: Path, job: Mapping[str, Any]) -> None:
    """Writes the report, and the outputs, as the agent would have, of what the driver brought.

    Raises:
        UnreachableError: it brought nothing.
    """
    place = folder / "done.json"
    if not place.exists():
        raise UnreachableError(
            Fault(f"The device {url} sent nothing back.", url, "no done.json", "what trtexec said",
                  "run trtexec there by hand")
        )  # fmt: skip
    done = json.loads(place.read_text())
    plan = json.loads((folder / "trtexec.json").read_text())
    results = {}
    for entry in job["artifacts"]:
        name, codes = entry["name"], done["codes"][entry["name"]]
        log = (folder / f"log-{name}-{len(codes) - 1}.txt").read_text(errors="replace")
        try:
            told = parse_trtexec((folder / f"log-{name}-0.txt").read_text(errors="replace"))
            if codes[-1] != 0:
                raise ValueError(log[-300:].strip())
            results[name] = (
                _timed(folder, name, told, WARM_UP_MS if job["runs"] else 0)
                if job["action"] == "time"
                else _ran(folder, name, told, len(codes), plan["kinds"][name])
            )
            results[name]["inputs"] = plan["inputs"][name]
        except (OSError, ValueError, KeyError) as error:
            detail = f"trtexec, exit status {codes[-1]}: {' '.join(str(error).split())}"[:500]
            built = "Engine built" in log or "Starting inference" in log
            outcome = "run-failed" if built else "load-failed"
            results[name] = {"failure": {"outcome": outcome, "detail": detail}}
    report = {
        "version": VERSION,
        "results": results,
        "peak_memory_bytes": None,
        "device": done["device"],
    }
    (folder / "report.json").write_text(json.dumps(report))


def _facts(told: TrtexecSummary) -> dict[str, Any]:
    facts: dict[str, Any] = {"runtime": "tensorrt", "version": told.version, "tool": "trtexec"}
    facts["build_s"] = told.build_s
    if told.unstable:
        facts["unstable"] = told.unstable
    return facts


def _timed(folder: Path, name: str, told: TrtexecSummary, warm_ms: float) -> dict[str, Any]:
    """A result of the agent's form; its block is the whole run."""
    trace = json.loads((folder / f"times-{name}-0.json").read_text())
    times_ns = [round(each["latencyMs"] * 1e6) for each in trace]
    warm = sum(each["startComputeMs"] < warm_ms for each in trace)
    if warm >= len(trace):
        raise ValueError("trtexec timed nothing after its warm-up")
    facts = _facts(told)
    transfers = statistics.fmean(each["h2dMs"] + each["d2hMs"] for each in trace[warm:])
    facts["transfers_ms"] = transfers
    power = power_mw(json.loads((folder / f"power-{name}-0.json").read_text()))
    if power is not None and told.throughput_qps:
        facts["power_mw"], facts["power_rails"] = power
        facts["energy_mj"] = power[0] / told.throughput_qps
    return {
        "import_ns": None,
        # An app reads a built engine; where that was not told, building it stands.
        "init_ns": round((told.load_s or told.build_s or 0.0) * 1e9),
        "first_ns": times_ns[0],
        "warm_up_count": warm,
        "settled": True,  # As far as it tells: it warms up for a time.
        "blocks_ns": [times_ns[warm:]],
        "facts": facts,
        "failure": None,
    }


def _ran(
    folder: Path, name: str, told: TrtexecSummary, count: int, kinds: Mapping[str, str]
) -> dict[str, Any]:
    """A result of the agent's form, the outputs of its samples written beside it.

    trtexec writes six digits of a number, so the seventh of a float32 is lost.
    """
    import numpy as np

    found: dict[str, list[Any]] = {key: [] for key in kinds}
    for number in range(count):
        text = (folder / f"out-{name}-{number}.json").read_text()
        # C++ writes what JSON has no number for in its own way.
        text = re.sub(r"(?<=[\[,\s])(-?)(nan|inf)(?=[\],\s])", _in_json, text)
        told_of = {entry["name"]: entry for entry in json.loads(text)}
        for key, values in found.items():
            shape = [int(size) for size in told_of[key]["dimensions"].split("x") if size]
            values.append(np.asarray(told_of[key]["values"], dtype=kinds[key]).reshape(shape))
    arrays: dict[str, Any] = {key: np.concatenate(values) for key, values in found.items()}
    np.savez(folder / f"outputs-{name}.npz", **arrays)
    return {"init_ns": 0, "facts": _facts(told), "failure": None, "outputs": list(arrays)}


def _in_json(match: re.Match[str]) -> str:
    return match[1] + {"nan": "NaN", "inf": "Infinity"}[match[2]]
