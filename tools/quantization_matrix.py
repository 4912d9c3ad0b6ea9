"""Networks x formats: int8 by each of our methods, compared with each library's default call.

    python tools/quantization_matrix.py                          # all networks, all formats
    python tools/quantization_matrix.py --only vit gru --formats onnx litert
    python tools/quantization_matrix.py --no-times               # on a machine that is not idle
    python tools/quantization_matrix.py --table                  # print what was measured before
    python tools/quantization_matrix.py --sets                   # compare calibration sets instead

For each file: SQNR and top-1 agreement with the float32 network on new samples, and its size and
latency as shares of the float32 file's, timed interleaved with it on one thread. "default call" is
the library's own call with its defaults on our float32 file. What ships is the fastest file that
keeps 30 dB and 99 % and is not slower than float32; among files as fast, the one with the highest
SQNR; float32 if there is none. A Core ML file is computed by the reference evaluator and has no
latency; there the smallest file ships.

--out keeps networks, files and measurements. A network is measured or timed if its row or its
latency is missing. "reference" is the best result of an earlier study with the best settings of all
four libraries, on similar networks: it shows what is usual, and is no direct comparison.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _quantization_table import FORMATS_HERE, Row, table
from quantization_zoo import NETWORKS, accuracy, trained
from torch import Tensor

import edgekd
from edgekd.artifacts.artifact import Artifact, describe, load_artifact, save_card
from edgekd.benchmarking.benchmark import benchmark_all
from edgekd.calibration.checks import doubts
from edgekd.calibration.selection import SELECTIONS, select
from edgekd.conversion.export import convert
from edgekd.data import Inputs, single
from edgekd.devices.execution import run_artifact
from edgekd.devices.on_device.agent import device_facts
from edgekd.errors import EdgekdError
from edgekd.evidence.outcome import Verdict
from edgekd.evidence.sqnr import sqnr_db
from edgekd.formats import FORMATS
from edgekd.formats.capabilities import has_reduced_range
from edgekd.formats.method_ranking import needs_reduced_range, ranked_methods
from edgekd.formats.options import ExportOptions
from edgekd.formats.quantization_methods import methods_of
from edgekd.network.architecture import architecture_of
from edgekd.network.network import Network, call
from edgekd.network.preprocessing import to_nhwc
from edgekd.recipe.benchmark import Protocol
from edgekd.system.output import output_to
from edgekd.system.process import run_process

CALIBRATION_COUNT, TEST_COUNT, REFERENCE_TEST_COUNT = 128, 128, 64
PROTOCOL = Protocol(processes=1, runs=100, seconds=0.1, block=10, warm_up_s=0.1)
NETWORK_TIMEOUT_S = 1800.0


def plain_onnx(source: Path, samples: Sequence[Inputs], path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.samples = iter(samples)

        def get_next(self) -> Any:
            sample = next(self.samples, None)
            return sample and {name: tensor.numpy() for name, tensor in sample.items()}

    quantize_static(str(source), str(path), Reader())


def plain_openvino(source: Path, samples: Sequence[Inputs], path: Path) -> None:
    import nncf
    import openvino as ov

    arrays = [{name: tensor.numpy() for name, tensor in sample.items()} for sample in samples]
    model = nncf.quantize(ov.Core().read_model(source), nncf.Dataset(arrays))
    ov.save_model(model, str(path))


def plain_litert(source: Path, samples: Sequence[Inputs], path: Path) -> None:
    from ai_edge_quantizer import quantizer, recipe

    arrays = [
        {name: (t.int() if t.dtype is torch.int64 else t).numpy() for name, t in sample.items()}
        for sample in samples
    ]
    quantization = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    ranges = quantization.calibrate({"serving_default": arrays})
    quantization.quantize(ranges).export_model(str(path), overwrite=True)


def plain_coreml(source: Path, samples: Sequence[Inputs], path: Path) -> None:  # noqa: ARG001
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    model = ct.models.MLModel(str(source), skip_model_load=True)
    config = cto.OptimizationConfig(global_config=cto.OpLinearQuantizerConfig())
    cto.linear_quantize_weights(model, config=config).save(str(path))


DEFAULT_CALLS: dict[str, Callable[[Path, Sequence[Inputs], Path], None]] = {
    "onnx": plain_onnx,
    "openvino": plain_openvino,
    "litert": plain_litert,
    "coreml": plain_coreml,
}


def our_methods(network: Network, format: str) -> list[tuple[str, str | None]]:
    """The 8-bit schemes that are tried for `network`, each with its methods."""
    kind = architecture_of(network)
    pairs: list[tuple[str, str | None]] = []
    for scheme in ("int8", "int8-dynamic"):
        if scheme not in FORMATS[format].SCHEMES:
            continue
        names = ranked_methods(format, scheme, kind, methods_of(format, scheme))
        pairs += [(scheme, name) for name in names or (None,)]
    return pairs


def fidelity(
    artifact: Artifact, inputs: Inputs, expected: Mapping[str, Tensor]
) -> dict[str, float | str | None]:
    """How well the file reproduces the outputs of the network."""
    try:
        result = run_artifact(artifact, inputs, "local")
    except EdgekdError as error:
        return {"error": f"{error.faults[0].what} {error.faults[0].got}"}
    if isinstance(result, Verdict):
        return {"error": f"{result.outcome.value}: {result.detail}"}
    return compared(result.outputs, expected)


def compared(
    outputs: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, float | str | None]:
    """SQNR over all outputs, and top-1 agreement on the first."""
    first = next(iter(expected))
    same = (outputs[first].argmax(1) == expected[first].argmax(1)).double().mean()
    return {"sqnr_db": sqnr_db(expected, outputs), "top1": float(same)}


def integer_fidelity(
    path: Path, inputs: Inputs, expected: Mapping[str, Tensor]
) -> dict[str, float | str | None]:
    """`fidelity` of a LiteRT file with integer inputs and outputs."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    ins, outs = runner.get_input_details(), runner.get_output_details()
    outputs: dict[str, list[Tensor]] = {name: [] for name in expected}

    def quantize(name: str, array: Any) -> Any:
        dtype, (scale, zero_point) = ins[name]["dtype"], ins[name]["quantization"]
        if not scale:
            return array.astype(dtype)
        limits = np.iinfo(dtype)
        return np.clip(np.round(array / scale) + zero_point, limits.min, limits.max).astype(dtype)

    for sample in single(inputs):
        result = runner(**{name: quantize(name, tensor.numpy()) for name, tensor in sample.items()})
        for name in expected:
            scale, zero_point = outs[name]["quantization"]
            value = result[name].astype(np.float32)
            real = (value - zero_point) * scale if scale else value
            outputs[name].append(torch.from_numpy(real))
    return compared({name: torch.cat(values) for name, values in outputs.items()}, expected)


def measure(name: str, format: str, out: Path) -> list[Row]:
    """The rows of one network in one format: float32, the default call, each of our methods.

    The files are kept, to be timed when the machine is idle.
    """
    module = trained(name, out / "weights")
    draw = NETWORKS[name].draw
    samples = single(draw(CALIBRATION_COUNT, torch.Generator().manual_seed(5))[0])
    count = REFERENCE_TEST_COUNT if format == "coreml" else TEST_COUNT
    inputs = draw(count, torch.Generator().manual_seed(6))[0]
    network = edgekd.load_network(module, example=samples[0])
    with torch.no_grad():
        expected = call(module, inputs)
    narrow = needs_reduced_range(device_facts()["instructions"])
    rows: list[Row] = []

    def add(scheme: str, method: str | None) -> Artifact | None:
        row: Row = {"network": name, "format": format, "scheme": scheme, "method": method}
        rows.append(row)
        folder = folder_of(out, row)
        reduce_range = narrow or not has_reduced_range(format, scheme)
        options = ExportOptions(scheme=scheme, method=method, reduce_range=reduce_range)
        start = time.perf_counter()
        try:
            if method == "plain":
                artifact = default_call(network, samples, folder, source)
            else:
                artifact = convert(network, format, samples, folder, options)
            row |= {"seconds": time.perf_counter() - start, "size_bytes": artifact.size_bytes}
            if method == "plain" and format == "litert":
                turned_inputs = to_nhwc(inputs, artifact.channels_last)
                row |= integer_fidelity(artifact.path, turned_inputs, expected)
            else:
                row |= fidelity(artifact, inputs, expected)
        except EdgekdError as error:
            row["error"] = f"{error.faults[0].what} {error.faults[0].got}"
        except Exception as error:  # noqa: BLE001  a library may raise anything
            row["error"] = f"{type(error).__name__}: {str(error).strip()[:300]}"
        return None if "error" in row else artifact

    source = add("fp32", None)
    if source is not None:
        add("int8", "plain")
    for scheme, method in our_methods(network, format):
        add(scheme, method)
    return rows


def folder_of(out: Path, row: Row) -> Path:
    """The folder of the file of a row."""
    method = f"-{row['method']}" if row["method"] else ""
    return out / "files" / row["format"] / row["network"] / f"{row['scheme']}{method}"


def default_call(
    network: Network, samples: Sequence[Inputs], folder: Path, source: Artifact | None
) -> Artifact:
    """The file that the library's default call makes from our float32 file, `source`."""
    assert source is not None
    format = source.format
    folder.mkdir(parents=True, exist_ok=True)
    if format == "coreml":  # coremltools' default precision is float16.
        source = convert(network, format, (), folder / "half", ExportOptions(scheme="fp16"))
    path = folder / f"model{FORMATS[format].SUFFIX}"
    samples = [to_nhwc(sample, source.channels_last) for sample in samples]
    with output_to(folder / "log.txt"):
        DEFAULT_CALLS[format](source.path, samples, path)
    lineage = {"channels_last": list(source.channels_last)}
    artifact = describe(path, format, "int8", network.signature, lineage)
    save_card(artifact)
    return artifact


def time_all(out: Path, format: str, names: Sequence[str]) -> None:
    """Times the files of each network that has none timed yet, interleaved."""
    rows = read(out, format)
    for name in names:
        timed_rows = [row for row in rows if row["network"] == name and "error" not in row]
        if not timed_rows or all("ratio" in row for row in timed_rows):
            continue
        artifacts = [load_artifact(folder_of(out, row)) for row in timed_rows]
        try:
            measurements = benchmark_all(artifacts, protocol=PROTOCOL)
        except EdgekdError as error:
            reason = f"{error.faults[0].what} {error.faults[0].got}"
            print(f"  {format} {name}: not timed: {reason}", flush=True)
            continue
        for row, measurement in zip(timed_rows, measurements, strict=True):
            ratio = measurement.ratio
            row["ms"] = measurement.percentile_ms(0.5).value
            row["ratio"] = ratio.value if ratio else 1.0
            row["interval"] = [ratio.low, ratio.high] if ratio else [1.0, 1.0]
        rows_path(out, format).write_text("".join(json.dumps(row) + "\n" for row in rows))


def compare_sets(names: Sequence[str], weights: Path) -> Iterator[str]:
    """How the selection of calibration samples changes int8, in ONNX with min-max ranges."""
    yield f"{'network':16}" + "".join(f"{name:>14}" for name in SELECTIONS)
    for name in names:
        module, draw = trained(name, weights), NETWORKS[name].draw
        pool, labels = draw(2048, torch.Generator().manual_seed(7))
        inputs = draw(TEST_COUNT, torch.Generator().manual_seed(6))[0]
        with torch.no_grad():
            expected, outputs = call(module, inputs), call(module, pool)
        logits = next(iter(outputs.values()))
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        line = f"{name:16}"
        for selection in SELECTIONS:
            ids = select(
                len(labels), CALIBRATION_COUNT, selection, seed=0,
                labels=labels if labels.ndim == 1 else None,
                features=logits.flatten(1), losses=losses.flatten(1).mean(1) if losses.ndim > 1
                else losses,
            ) if selection != "stratified" or labels.ndim == 1 else None  # fmt: skip
            if ids is None:
                line += f"{'-':>14}"
                continue
            samples = single({key: tensor[list(ids)] for key, tensor in pool.items()})
            assert not [doubt for doubt in doubts(samples, pool) if "more than once" in doubt]
            network = edgekd.load_network(module, example=samples[0])
            with tempfile.TemporaryDirectory() as scratch:
                artifact = edgekd.export(
                    network, format="onnx", scheme="int8", calibration=samples, out=scratch
                )
                row = fidelity(artifact, inputs, expected)
            line += f"{row['sqnr_db']:8.1f}/{100 * float(row['top1'] or 0):5.1f}"
        yield line


def rows_path(out: Path, format: str) -> Path:
    """The file that keeps the rows of a format."""
    return out / f"rows-{format}.jsonl"


def read(out: Path, format: str) -> list[Row]:
    """The rows of a format that are measured."""
    path = rows_path(out, format)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def measure_all(out: Path, format: str, names: Sequence[str]) -> None:
    """Measures the networks that have no row in one process, and in a new one if that dies."""
    while True:
        known = {row["network"] for row in read(out, format)}
        todo = [name for name in names if name not in known]
        if not todo:
            return
        argv = [sys.executable, __file__, "--out", str(out), "--cells", format, *todo]
        done = run_process(argv, timeout_s=NETWORK_TIMEOUT_S * len(todo))
        if {row["network"] for row in read(out, format)} == known:
            row = {"network": todo[0], "format": format, "scheme": "fp32", "method": None}
            row["error"] = f"its process died: {done.last_lines}"
            with rows_path(out, format).open("a") as file:
                file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", metavar="NETWORK", help="default: all networks")
    parser.add_argument("--formats", nargs="*", default=list(FORMATS_HERE))
    parser.add_argument("--out", type=Path, default=Path("build/quantization-matrix"))
    parser.add_argument("--table", action="store_true", help="only print what --out holds")
    parser.add_argument("--no-times", action="store_true", help="do not measure latencies")
    parser.add_argument("--sets", action="store_true", help="compare calibration sets instead")
    parser.add_argument("--cells", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    weights = args.out / "weights"
    if args.cells:
        format, *names = args.cells
        with rows_path(args.out, format).open("a") as file:
            for name in names:
                rows = measure(name, format, args.out)
                # One network at a time, so that a process that dies loses one.
                file.writelines(json.dumps(row) + "\n" for row in rows)
                file.flush()
        return
    names = args.only or list(NETWORKS)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.sets:
        for line in compare_sets(names, weights):
            print(line, flush=True)
        return
    for name in [] if args.table else names:
        print(f"{name}: {100 * accuracy(name, trained(name, weights)):.1f} % correct", flush=True)
    rows = []
    for format in args.formats:
        if not args.table:
            measure_all(args.out, format, names)
        if format != "coreml" and not args.table and not args.no_times:
            time_all(args.out, format, names)
        rows += [row for row in read(args.out, format) if row["network"] in names]
    for line in table(rows):
        print(line)


if __name__ == "__main__":
    main()
