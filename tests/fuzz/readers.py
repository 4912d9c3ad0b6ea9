"""The readers of foreign input, each with a strategy of inputs that are nearly valid."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from edgekd.artifacts.artifact import load_artifact
from edgekd.artifacts.card import card_signature, read_card
from edgekd.artifacts.target import load_target
from edgekd.bundles.archive import unpack
from edgekd.bundles.integrity import integrity
from edgekd.bundles.manifest import json_schema, read_manifest
from edgekd.calibration.calibration_set import load_calibration
from edgekd.cli.parse import parse_budget, parse_example
from edgekd.devices import find_device
from edgekd.devices.imported import run_agent as read_figures
from edgekd.devices.telemetry import condition
from edgekd.devices.vendor_tools.benchmark_model import parse_benchmark_model, parse_result_file
from edgekd.devices.vendor_tools.trtexec import parse_trtexec
from edgekd.network.dynamic_shapes import parse_dynamic
from edgekd.network.load import load_module
from edgekd.network.sample_files import read_samples
from edgekd.recipe.load import load_recipe
from edgekd.recipe.table import Known
from edgekd.report.run_data import read_run
from edgekd.system.files import path_digest
from tests.fuzz.strategies import NAMES, broken, json_files, texts, toml_files
from tests.support.bundles import written
from tests.support.project import tiny_recipe

Read = Callable[[Any, Path], object]


@dataclass(frozen=True)
class Reader:
    """A reader, its inputs, and what else than an error of five parts it may raise.

    Attributes:
        read: reads an input, with a folder for its files.
        inputs: a strategy, given a folder for what it prepares once.
        allowed: the documented errors of a parser whose caller turns them into a row.
    """

    read: Read
    inputs: Callable[[Path], st.SearchStrategy[Any]]
    allowed: tuple[type[Exception], ...] = field(default=())


def _write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@functools.cache
def _known(folder: Path) -> Known:
    """The names that a recipe in `folder` may use; looking them up takes longer than reading."""
    from edgekd.pipeline.extensions import known_names

    return known_names(folder)


def _recipe(data: bytes, folder: Path) -> object:
    return load_recipe(_write(folder, "recipe.toml", data), _known(folder))


def _full_recipe() -> dict[str, Any]:
    """A recipe with most of the tables."""
    document = tiny_recipe()
    return {
        **document,
        "version": "1.0.0",
        "prune": {"keep": 0.5, "recover_epochs": 1},
        "quantize": {"schemes": ["fp32", "int8"], "calibration": "random-128"},
        "targets": [
            {"name": "x86-cpu-onnx", "device": "local", "budget": {"latency_p90_ms": 5.0}},
            {"name": "raspberry-pi-5-litert", "device": "ssh://pi@pi5.local", "required": False},
        ],
        "bundle": {"kinds": ["folder"], "description": "a model"},
    }


def _setting(text: str, folder: Path) -> object:
    path = folder / "recipe.toml"
    if not path.exists():
        import tomli_w

        path.write_text(tomli_w.dumps(tiny_recipe()), encoding="utf-8")
    return load_recipe(path, _known(folder), [text])


def _target_document() -> dict[str, Any]:
    return {
        "description": "a board", "format": "onnx", "schemes": ["fp32", "int8"],
        "machine": "aarch64", "threads": 4, "channel_multiple": 8, "connection": "ssh",
        "emulated": "cortex-a76", "refuses": {"fp16": "too old"},
        "facts": {"soc": {"value": "BCM2712", "source": "https://example.org"}},
    }  # fmt: skip


def _manifest(data: bytes, folder: Path) -> object:
    import jsonschema

    path = _write(folder, "manifest.json", data)
    manifest = read_manifest(folder)
    # What the reader accepts, the published schema accepts too.
    jsonschema.validate(json.loads(path.read_bytes()), json_schema())
    return manifest


def _manifest_inputs(folder: Path) -> st.SearchStrategy[bytes]:
    bundle, _ = written(folder / "valid")
    return json_files(json.loads((bundle / "manifest.json").read_text()))


def _bundle(data: bytes, folder: Path) -> object:
    """Check a whole bundle whose manifest is foreign."""
    bundle = folder / "key-spotter-1.2.3"
    if not bundle.exists():
        written(folder)
    (bundle / "manifest.json").write_bytes(data)
    return integrity(bundle)


def _archive(data: bytes, folder: Path) -> object:
    import shutil

    out = folder / "unpacked"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    return integrity(unpack(_write(folder, "bundle.zip", data), out))


def _archive_inputs(folder: Path) -> st.SearchStrategy[bytes]:
    bundle, _ = written(folder / "valid", ("onnx",))
    files = {p.relative_to(bundle.parent).as_posix(): p for p in bundle.rglob("*") if p.is_file()}
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in files.items():
            archive.write(path, name)

    def renamed(names: list[str]) -> bytes:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for name, path in zip(names, files.values(), strict=False):
                archive.writestr(zipfile.ZipInfo(name), path.read_bytes())
        return data.getvalue()

    names = st.lists(
        st.one_of(
            st.sampled_from(sorted(files)), NAMES, NAMES.map(lambda name: f"{bundle.name}/{name}")
        ),
        min_size=1, max_size=len(files), unique=True,
    )  # fmt: skip
    return st.one_of(broken(whole.getvalue()), names.map(renamed))


def _card_document() -> dict[str, Any]:
    tensor = {"name": "x", "shape": [None, 8], "dtype": "float32"}
    return {
        "path": "model.onnx", "format": "onnx", "scheme": "fp32",
        "sha256": hashlib.sha256(b"model").hexdigest(),
        "size_bytes": 5, "zipped_bytes": 5,
        "signature": {"inputs": [tensor], "outputs": [{**tensor, "name": "y", "shape": [None, 3]}]},
        "lineage": {"network_sha256": "1" * 64, "example_shapes": {"x": [1, 8]}, "tools": {}},
    }  # fmt: skip


def _card(data: bytes, folder: Path) -> object:
    path = _write(folder, "artifact.json", data)
    _write(folder, "model.onnx", b"model")
    signature = card_signature(read_card(path))
    try:
        return load_artifact(folder)
    finally:
        assert signature is None or signature.inputs is not None


SENSORS = {
    "files": "/sys/class/thermal/thermal_zone0/type:cpu-thermal\n"
    "/sys/class/thermal/thermal_zone0/temp:84212\n"
    "/sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq:2400000\n"
    "/sys/devices/system/cpu/cpu2/cpufreq/scaling_governor:ondemand",
    "vcgencmd get_throttled": "throttled=0xe0008",
    "vcgencmd measure_temp": "temp=84.0'C",
    "vcgencmd measure_clock arm": "frequency(0)=1500006144",
    "tegrastats": "RAM 2448/7858MB (lfb 1x2MB) SWAP 0/3929MB CPU [1%@1510,2%@1510,off] EMC_FREQ "
    "0%@2133 GR3D_FREQ 0%@[611] CPU@47.5C soc2@46C VDD_IN 4944mW/4944mW VDD_CPU_GPU_CV 787mW/787mW",
    "nvpmodel -q": "NV Power Mode: 15W\n2\n",
    "dumpsys thermalservice": "Thermal Status: 0\nCurrent temperatures from HAL:\n\tTemperature{"
    "mValue=31.2, mType=0, mName=CPU0, mStatus=0}\n",
    "dumpsys battery": "AC powered: false\nUSB powered: true\nlevel: 80\nscale: 100\n",
}


def _reading(texts_by_source: dict[str, str], folder: Path) -> object:  # noqa: ARG001
    raw = {"at_s": 0.0, "load_average": 0.1, "cpu": 2, "texts": texts_by_source}
    reading = condition.read(raw)
    condition.throttled([reading, reading])
    condition.too_hot(reading)
    json.dumps(condition.summary([reading, reading]), allow_nan=True)
    return reading.to_json()


def _reading_inputs(folder: Path) -> st.SearchStrategy[dict[str, str]]:  # noqa: ARG001
    return st.fixed_dictionaries({}, optional={name: texts(text) for name, text in SENSORS.items()})


BENCHMARK_MODEL = (
    "INFO: STARTING!\nINFO: Loaded model /data/local/tmp/edgekd/model.tflite\n"
    "INFO: The input model file size (MB): 0.05\nINFO: Initialized session in 12.4ms.\n"
    "INFO: count=50 first=1100 curr=1010 min=1000 max=1100 avg=1015.2 std=12 p5=1001 median=1012 "
    "p95=1080\nINFO: count=1000 first=1001 curr=1003 min=999 max=1200 avg=1009.5 std=11 p5=1000 "
    "median=1008 p95=1040\nINFO: Inference timings in us: Init: 12400, First inference: 1100, "
    "Warmup (avg): 1015.2, Inference (avg): 1009.5\n"
    "INFO: Memory footprint delta from the start of the tool (MB): init=1.6 overall=2.9\n"
)


def _result_file() -> bytes:
    """A result file by the field numbers of benchmark_result.proto."""

    def message(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    def floats(*values: float) -> bytes:
        pairs = enumerate(values, 1)
        return b"".join(bytes([n << 3 | 5]) + struct.pack("<f", value) for n, value in pairs)

    latency = floats(0.404, 0.399, 0.45, 0.0075, 0.403, 0.4, 0.42, 12.5, 0.9, 0.5105)
    memory = bytes([8, 16, 16, 32]) + bytes([3 << 3 | 5]) + struct.pack("<f", 9.75)
    counts = floats(0.5) + bytes([2 << 3, 150, 1, 3 << 3, 5]) + bytes([4 << 3 | 5, 0, 0, 0, 0])
    return message(1, b"it") + message(2, latency) + message(3, memory) + message(4, counts)


TRTEXEC = (
    "&&&& RUNNING TensorRT.trtexec [TensorRT v101300] # trtexec --onnx=m.onnx\n"
    "[I] Engine built in 12.3 sec.\n[I] === Performance summary ===\n"
    "[I] Throughput: 1890.3 qps\n[I] Latency: min = 0.51 ms, max = 0.9 ms, mean = 0.55 ms, median "
    "= 0.54 ms, percentile(90%) = 0.57 ms, percentile(95%) = 0.6 ms, percentile(99%) = 0.7 ms\n"
    "[I] GPU Compute Time: min = 0.5 ms, max = 0.8 ms, mean = 0.52 ms, median = 0.51 ms, "
    "percentile(90%) = 0.53 ms\n&&&& PASSED TensorRT.trtexec [TensorRT v101300]\n"
)


def _figures_document(folder: Path) -> dict[str, Any]:
    model = _write(folder, "model.bin", b"model")
    job = {"action": "time", "artifacts": [{"name": "m", "path": "model.bin"}]}
    (folder / "job.json").write_text(json.dumps(job))
    entry = {
        "sha256": path_digest(model), "count": 100, "compute_units": "all",
        "prediction_ms": {"median": 1.2, "p90": 1.4}, "load_ms": 85.0,
        "operations": {"neural-engine": 40, "cpu": 2},
    }  # fmt: skip
    return {
        "format": "edgekd-figures", "version": 1, "device": "iPhone 15", "machine": "arm64",
        "system": "iOS 18.1", "tool": "Xcode 16.1", "models": [entry],
    }  # fmt: skip


def _figures(data: bytes, folder: Path) -> object:
    _figures_document(folder)
    path = _write(folder, "figures.json", data)
    read_figures(f"imported://{path}", folder, timeout_s=1.0)
    return json.loads((folder / "report.json").read_text())


def _samples(item: tuple[str, bytes], folder: Path) -> object:
    return read_samples(_write(folder, f"samples{item[0]}", item[1]))


def _sample_inputs(folder: Path) -> st.SearchStrategy[tuple[str, bytes]]:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({"x": torch.zeros(4, 8)}, folder / "x.safetensors")
    np.savez(folder / "x.npz", x=np.zeros((4, 8), np.float32))
    return st.one_of(
        *(
            st.tuples(st.just(suffix), broken((folder / f"x{suffix}").read_bytes()))
            for suffix in (".safetensors", ".npz")
        )
    )


def _program_inputs(folder: Path) -> st.SearchStrategy[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    program = torch.export.export(torch.nn.Linear(8, 3), (torch.zeros(1, 8),))
    torch.export.save(program, folder / "x.pt2")
    return broken((folder / "x.pt2").read_bytes())


def _run_document() -> dict[str, Any]:
    row = {
        "candidate": "fp32", "target": "x86-cpu-onnx", "format": "onnx", "scheme": "fp32",
        "outcome": "passed", "detail": "", "artifact": {"path": "model.onnx", "size_bytes": 5},
        "agreement": None, "measurement": None,
    }  # fmt: skip
    return {"name": "tiny", "passed": True, "rows": [row], "chosen": {}}


def _run(data: bytes, folder: Path) -> object:
    _write(folder, "result.json", data)
    _write(folder, "environment.json", b"{}")
    _write(folder, "recipe.toml", b'name = "tiny"\n')
    return read_run(folder)


URLS = (
    "local", "ssh://pi@pi5.local", "ssh://[::1]:2222?python=/usr/bin/python3", "adb://R58M123ABC",
    "adb://10.0.0.2:5555?benchmark_model=/x", "emulated://cortex-a76", "imported://figures.json",
    "ssh://user@domain@host", "ssh://[::1", "ssh://", "://", "ssh://host:99999",
)  # fmt: skip


def _urls(folder: Path) -> st.SearchStrategy[str]:  # noqa: ARG001
    return st.one_of(st.sampled_from(URLS).flatmap(texts), st.sampled_from(URLS), st.text())


def _arguments(*valid: str) -> Callable[[Path], st.SearchStrategy[str]]:
    return lambda folder: st.sampled_from(valid).flatmap(texts)  # noqa: ARG005


READERS: dict[str, Reader] = {
    "recipe": Reader(_recipe, lambda folder: toml_files(_full_recipe())),  # noqa: ARG005
    "recipe setting": Reader(
        _setting,
        _arguments("distill.epochs=3", "targets.0.prefer='size'", "quantize.schemes=['fp32']"),
    ),
    "target profile": Reader(
        lambda data, folder: load_target("board.toml", _write(folder, "board.toml", data).parent),
        lambda folder: toml_files(_target_document()),  # noqa: ARG005
    ),
    "calibration set": Reader(
        lambda data, folder: load_calibration("set.toml", _write(folder, "set.toml", data).parent),
        lambda folder: toml_files(  # noqa: ARG005
            {
                "description": "d",
                "source": "train",
                "count": 8,
                "selection": "random",
                "licence": "x",
            }
        ),
    ),
    "bundle manifest": Reader(_manifest, _manifest_inputs),
    "bundle": Reader(_bundle, _manifest_inputs),
    "bundle archive": Reader(_archive, _archive_inputs),
    "artifact card": Reader(_card, lambda folder: json_files(_card_document())),  # noqa: ARG005
    "sensor readings": Reader(_reading, _reading_inputs),
    "benchmark_model output": Reader(
        lambda text, folder: parse_benchmark_model(text),  # noqa: ARG005
        lambda folder: texts(BENCHMARK_MODEL),  # noqa: ARG005
        allowed=(ValueError,),
    ),
    "benchmark_model result file": Reader(
        lambda data, folder: parse_result_file(data),  # noqa: ARG005
        lambda folder: st.one_of(  # noqa: ARG005
            st.binary(max_size=200),
            broken(_result_file()),
        ),
        allowed=(ValueError,),
    ),
    "trtexec output": Reader(
        lambda text, folder: parse_trtexec(text),  # noqa: ARG005
        lambda folder: texts(TRTEXEC),  # noqa: ARG005
        allowed=(ValueError,),
    ),
    "device URL": Reader(lambda url, folder: find_device(url), _urls),  # noqa: ARG005
    "hand-written figures": Reader(_figures, lambda folder: json_files(_figures_document(folder))),
    "samples": Reader(_samples, _sample_inputs),
    "exported program": Reader(
        lambda data, folder: load_module(str(_write(folder, "model.pt2", data))), _program_inputs
    ),
    "run": Reader(_run, lambda folder: json_files(_run_document())),  # noqa: ARG005
    "example shape": Reader(
        lambda text, folder: parse_example([text]),  # noqa: ARG005
        _arguments("1x3x8x8", "image=1x3x8x8:float32"),
    ),
    "budget": Reader(
        lambda text, folder: parse_budget([text]),  # noqa: ARG005
        _arguments("latency_p90_ms=5", "size_bytes=100000"),
    ),
    "dynamic dimension": Reader(
        lambda text, folder: parse_dynamic([text]),  # noqa: ARG005
        _arguments("tokens=8..64@ids:1,mask:1"),
    ),
}
"""The readers by name."""
