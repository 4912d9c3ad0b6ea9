"""Networks x formats: int8 by each of our methods, beside the plain call of each library.

    python tools/quantization_matrix.py                          # all networks, all formats
    python tools/quantization_matrix.py --only vit gru --formats onnx litert
    python tools/quantization_matrix.py --no-times               # while the machine has other work
    python tools/quantization_matrix.py --table                  # print what was measured before
    python tools/quantization_matrix.py --sets                   # calibration sets compared instead

Of each file: SQNR and top-1 agreement with the float32 network on fresh samples, its size and its
latency as shares of the float32 file's, interleaved with it, one thread. "plain" is the library's
own call with its defaults on our float32 file. What is chosen is the fastest that keeps 30 dB and
99 % and is not slower than float32, of those as fast the most faithful; where there is none,
float32 ships. A Core ML file is computed by the reference evaluator and has no latency: there it is
the smallest.

Networks, files and what was measured are kept in --out; a network is measured, or timed, where its
line, or its time, is missing. "peer" is the best cell of an earlier study of like networks, made
with all four libraries' best settings; its networks are not these, so it says how good is usual,
not who wins.
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
from torch import Tensor

ROOT = Path(__file__).parents[1]

from quantization_zoo import KINDS, accuracy, trained

import edgekd
from edgekd.artifacts.artifact import (
    Artifact,
    describe,
    load_artifact,
    save_card,
)
from edgekd.benchmarking.benchmark import benchmark_all
from edgekd.calibration.checks import doubts
from edgekd.calibration.selection import SELECTIONS, select
from edgekd.conversion.export import (
    convert,
    sqnr_db,
)
from edgekd.data import (
    Inputs,
    single,
)
from edgekd.devices.execution import run_artifact
from edgekd.devices.on_device.agent import device_facts
from edgekd.errors import EdgekdError
from edgekd.evidence.outcome import Verdict
from edgekd.formats import FORMATS
from edgekd.formats.method_ranking import ranked_methods, weight_bits
from edgekd.formats.quantization_methods import methods_of
from edgekd.network.architecture import architecture_of
from edgekd.network.network import (
    Network,
    call,
)
from edgekd.network.preprocessing import turned
from edgekd.pipeline.candidates.export import NARROW
from edgekd.recipe.benchmark import Protocol
from edgekd.system.output import output_to
from edgekd.system.process import run_process

FORMATS_HERE = ("onnx", "openvino", "litert", "coreml")
CALIBRATED_WITH, JUDGED_ON, REFERENCE_JUDGED_ON = 128, 128, 64
FLOOR_DB, AGREEMENT_FRAC = 30.0, 0.99
PROTOCOL = Protocol(processes=1, runs=100, seconds=0.1, block=10, warm_up_s=0.1)
NETWORK_TIMEOUT_S = 1800.0

PEERS: Mapping[str, Mapping[str, tuple[float | None, float | None]]] = {
    "onnx": {
        "mbv2": (33.0, 1.43), "mbv3s": (30.0, 0.74), "resnet18": (41.4, 3.10),
        "convnext": (39.4, 1.55), "vit": (37.2, 1.45), "unet_ct": (30.0, 1.82),
        "dscnn": (37.1, 1.04), "tcn": (41.1, 2.37), "gru": (41.5, 0.97), "lstm": (52.9, 1.36),
        "minilm": (38.6, 1.61), "dwdil": (36.9, 0.95), "twoin": (37.8, 0.92),
    },
    "openvino": {
        "mbv2": (32.8, 1.73), "mbv3s": (31.9, 1.49), "resnet18": (48.1, 3.52),
        "convnext": (45.5, 1.68), "vit": (41.1, 2.28), "unet_ct": (32.6, 2.92),
        "dscnn": (40.5, 1.24), "tcn": (44.7, 1.79), "gru": (57.8, 0.97), "lstm": (51.8, 0.96),
        "minilm": (45.7, 2.58), "dwdil": (41.1, 1.50), "twoin": (40.4, 1.59),
    },
    "litert": {
        "mbv2": (32.2, 1.68), "mbv3s": (30.2, 0.81), "resnet18": (41.4, 3.46),
        "convnext": (49.1, 2.93), "vit": (37.6, 2.30), "unet_ct": (32.5, 3.82),
        "dscnn": (37.1, 1.23), "tcn": (40.4, 3.13), "gru": (54.8, 1.82), "lstm": (55.0, 2.13),
        "minilm": (38.7, 2.69), "dwdil": (36.5, 1.97), "twoin": (None, 2.72),
    },
    "coreml": {
        "mbv2": (46.4, None), "mbv3s": (45.0, None), "resnet18": (52.9, None),
        "convnext": (54.9, None), "vit": (46.8, None), "unet_ct": (45.3, None),
        "dscnn": (44.6, None), "tcn": (49.8, None), "lstm": (65.1, None),
        "minilm": (51.2, None), "dwdil": (43.4, None),
    },
}  # fmt: skip
"""SQNR in dB, and how many times as fast as float32 in the same runtime."""

Row = dict[str, Any]


def plain_onnx(source: Path, samples: Sequence[Inputs], path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(samples)

        def get_next(self) -> Any:
            sample = next(self.left, None)
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
    made = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    ranges = made.calibrate({"serving_default": arrays})
    made.quantize(ranges).export_model(str(path), overwrite=True)


def plain_coreml(source: Path, samples: Sequence[Inputs], path: Path) -> None:  # noqa: ARG001
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    model = ct.models.MLModel(str(source), skip_model_load=True)
    config = cto.OptimizationConfig(global_config=cto.OpLinearQuantizerConfig())
    cto.linear_quantize_weights(model, config=config).save(str(path))


PLAIN: dict[str, Callable[[Path, Sequence[Inputs], Path], None]] = {
    "onnx": plain_onnx,
    "openvino": plain_openvino,
    "litert": plain_litert,
    "coreml": plain_coreml,
}


def ours(network: Network, format: str) -> list[tuple[str, str | None]]:
    """The schemes of eight bits that are tried of `network`, each with its methods."""
    kind = architecture_of(network)
    found: list[tuple[str, str | None]] = []
    for scheme in ("int8", "int8-dynamic"):
        if scheme not in FORMATS[format].SCHEMES:
            continue
        names = ranked_methods(format, scheme, kind, methods_of(format, scheme))
        found += [(scheme, name) for name in names or (None,)]
    return found


def judged(
    artifact: Artifact, inputs: Inputs, wanted: Mapping[str, Tensor]
) -> dict[str, float | str | None]:
    """How well the file reproduces the network."""
    try:
        ran = run_artifact(artifact, inputs, "local")
        found: Mapping[str, Tensor]
        if isinstance(ran, Verdict):
            return {"error": f"{ran.outcome.value}: {ran.detail}"}
        found = ran.outputs
    except EdgekdError as error:
        return {"error": f"{error.faults[0].what} {error.faults[0].got}"}
    first = next(iter(wanted))
    same = (found[first].argmax(1) == wanted[first].argmax(1)).double().mean()
    return {"sqnr_db": sqnr_db(wanted, found), "top1": float(same)}


def by_interpreter(path: Path, inputs: Inputs, wanted: Mapping[str, Tensor]) -> dict[str, Any]:
    """The same of a LiteRT file whose inputs and outputs are integers."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    ins, outs = runner.get_input_details(), runner.get_output_details()
    found: dict[str, list[Tensor]] = {name: [] for name in wanted}

    def coded(name: str, array: Any) -> Any:
        scale, zero = ins[name]["quantization"]
        if not scale:
            return array.astype(ins[name]["dtype"])
        limits = np.iinfo(ins[name]["dtype"])
        return np.clip(np.round(array / scale) + zero, limits.min, limits.max).astype(
            ins[name]["dtype"]
        )

    for sample in single(inputs):
        given = runner(**{name: coded(name, tensor.numpy()) for name, tensor in sample.items()})
        for name in wanted:
            scale, zero = outs[name]["quantization"]
            value = given[name].astype(np.float32)
            found[name].append(torch.from_numpy((value - zero) * scale if scale else value))
    whole = {name: torch.cat(values) for name, values in found.items()}
    first = next(iter(wanted))
    same = (whole[first].argmax(1) == wanted[first].argmax(1)).double().mean()
    return {"sqnr_db": sqnr_db(wanted, whole), "top1": float(same)}


def measured(name: str, format: str, out: Path) -> list[Row]:
    """The rows of one network in one format: float32, the plain call, each of our methods.

    The files are kept, so that they can be timed when nothing else runs.
    """
    module = trained(name, out / "weights")
    draw = KINDS[name].draw
    samples = single(draw(CALIBRATED_WITH, torch.Generator().manual_seed(5))[0])
    count = REFERENCE_JUDGED_ON if format == "coreml" else JUDGED_ON
    inputs = draw(count, torch.Generator().manual_seed(6))[0]
    network = edgekd.load_network(module, example=samples[0])
    with torch.no_grad():
        wanted = call(module, inputs)
    bits = weight_bits(device_facts()["instructions"])
    rows: list[Row] = []

    def add(scheme: str, method: str | None) -> Artifact | None:
        row: Row = {"network": name, "format": format, "scheme": scheme, "method": method}
        rows.append(row)
        folder = folder_of(out, row)
        own = bits if scheme in NARROW.get(format, ()) else 7
        start = time.perf_counter()
        try:
            if method == "plain":
                artifact = by_plain_call(network, samples, folder, source)
            else:
                artifact = convert(
                    network, format, scheme, samples, folder, method=method, weight_bits=own
                )
            row |= {"seconds": time.perf_counter() - start, "size_bytes": artifact.size_bytes}
            if method == "plain" and format == "litert":
                turned_inputs = turned(inputs, artifact.channels_last)
                row |= by_interpreter(artifact.path, turned_inputs, wanted)
            else:
                row |= judged(artifact, inputs, wanted)
        except EdgekdError as error:
            row["error"] = f"{error.faults[0].what} {error.faults[0].got}"
        except Exception as error:  # noqa: BLE001  a library may raise anything
            row["error"] = f"{type(error).__name__}: {str(error).strip()[:300]}"
        return None if "error" in row else artifact

    source = add("fp32", None)
    if source is not None:
        add("int8", "plain")
    for scheme, method in ours(network, format):
        add(scheme, method)
    return rows


def folder_of(out: Path, row: Row) -> Path:
    """Where the file of a row is kept."""
    method = f"-{row['method']}" if row["method"] else ""
    return out / "files" / row["format"] / row["network"] / f"{row['scheme']}{method}"


def by_plain_call(
    network: Network, samples: Sequence[Inputs], folder: Path, source: Artifact | None
) -> Artifact:
    """The file that the library's own call makes of our float32 file, `source`."""
    assert source is not None
    format = source.format
    folder.mkdir(parents=True, exist_ok=True)
    if format == "coreml":  # coremltools computes in float16 unless told otherwise.
        source = convert(network, format, "fp16", (), folder / "half")
    path = folder / f"model{FORMATS[format].SUFFIX}"
    given = [turned(sample, source.channels_last) for sample in samples]
    with output_to(folder / "log.txt"):
        PLAIN[format](source.path, given, path)
    lineage = {"channels_last": list(source.channels_last)}
    made = describe(path, format, "int8", network.signature, lineage)
    save_card(made)
    return made


def time_all(out: Path, format: str, names: Sequence[str]) -> None:
    """Times the files of the networks that were not timed, those of one interleaved."""
    rows = read(out, format)
    for name in names:
        ours_here = [row for row in rows if row["network"] == name and "error" not in row]
        if not ours_here or all("ratio" in row for row in ours_here):
            continue
        artifacts = [load_artifact(folder_of(out, row)) for row in ours_here]
        try:
            found = benchmark_all(artifacts, protocol=PROTOCOL)
        except EdgekdError as error:
            told_of = f"{error.faults[0].what} {error.faults[0].got}"
            print(f"  {format} {name}: not timed: {told_of}", flush=True)
            continue
        for row, measurement in zip(ours_here, found, strict=True):
            ratio = measurement.ratio
            row["ms"] = measurement.percentile_ms(0.5).value
            row["ratio"] = ratio.value if ratio else 1.0
            row["interval"] = [ratio.low, ratio.high] if ratio else [1.0, 1.0]
        kept(out, format).write_text("".join(json.dumps(row) + "\n" for row in rows))


def keeps(row: Row) -> bool:
    """Whether the file is as faithful as what ships must be."""
    return row.get("sqnr_db", 0.0) >= FLOOR_DB and row.get("top1", 0.0) >= AGREEMENT_FRAC


def chosen(rows: Sequence[Row]) -> Row:
    """The row that ships, of those of one network in one format."""
    fp32 = rows[0]
    rivals = [
        row
        for row in rows[1:]
        if row["method"] != "plain"
        and keeps(row)
        and (row["scheme"] == "int8" or row["size_bytes"] < LITTLE_FRAC * fp32["size_bytes"])
    ]
    if fp32["format"] == "coreml":
        return _nearest(rivals, "size_bytes") or fp32
    if "ratio" not in fp32:
        return max(rivals, key=lambda row: row["sqnr_db"], default=fp32)
    return _nearest([row for row in rivals if row.get("ratio", 9.9) <= 1.0], "ratio") or fp32


def _nearest(rows: Sequence[Row], figure: str) -> Row | None:
    """The most faithful of the rows whose `figure` is as small as the least, within noise."""
    least = min((row[figure] for row in rows), default=0.0)
    equal = [row for row in rows if row[figure] <= ALIKE * least]
    return max(equal, key=lambda row: row["sqnr_db"], default=None)


ALIKE = 1.03
"""Times and sizes that are no farther apart are one."""


LITTLE_FRAC = 0.9
"""The share of float32's size over which next to nothing of a file is in int8."""


def best(rows: Sequence[Row], scheme: str | None = None) -> Row | None:
    """Ours, of a scheme or of all, that comes nearest to the network."""
    rivals = [
        row
        for row in rows[1:]
        if row["method"] != "plain"
        and "sqnr_db" in row
        and scheme in (None, row["scheme"])
        and (row["scheme"] == "int8" or row["size_bytes"] < LITTLE_FRAC * rows[0]["size_bytes"])
    ]
    return max(rivals, key=lambda row: row["sqnr_db"], default=None)


def told(row: Row | None, fp32: Row) -> str:
    """SQNR, agreement, size and time of a row as text."""
    if row is None:
        return "-"
    if "sqnr_db" not in row:
        return f"failed ({row.get('error', '')[:40]})"
    text = f"{row['sqnr_db']:.1f} / {100 * row['top1']:.1f} / "
    text += f"{row['size_bytes'] / fp32['size_bytes']:.2f} / "
    return text + (f"{row['ratio']:.2f}" if "ratio" in row else "-")


def table(found: Sequence[Row]) -> Iterator[str]:
    """The measured rows as a table in Markdown, and what of it falls short."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        groups.setdefault((row["format"], row["network"]), []).append(row)
    short: list[str] = []
    for format in FORMATS_HERE:
        ours_here = {name: rows for (each, name), rows in groups.items() if each == format}
        if not ours_here:
            continue
        yield f"\n{format}: SQNR dB / top-1 agreement % / size / time, the last two of fp32's\n"
        yield "| network | plain call | our int8 | our int8-dynamic | chosen | peer, dB / time |"
        yield "|---|---|---|---|---|---|"
        for name, rows in ours_here.items():
            fp32, plain = rows[0], next((r for r in rows if r["method"] == "plain"), None)
            ships = chosen(rows)
            peer = PEERS[format].get(KINDS[name].like or "", (None, None))
            shown = " / ".join(
                [f"{peer[0]:.1f}" if peer[0] else "-", f"{1 / peer[1]:.2f}" if peer[1] else "-"]
            )
            how = f"{ships['scheme']} {ships['method'] or ''}: {told(ships, fp32)}"
            if ships is fp32:
                how = "fp32"
            if "ratio" not in fp32 and format != "coreml":
                how = "not timed"
            static, moving = best(rows, "int8"), best(rows, "int8-dynamic")
            near = f"{static['method']}: " if static else ""
            yield (
                f"| {name} | {told(plain, fp32)} | {near}{told(static, fp32)} | "
                f"{told(moving, fp32)} | {how} | {shown} |"
            )
            short += [f"{format} {name}: {each}" for each in shortcomings(rows, peer)]
    yield "\nwhat falls short:" if short else "\nnothing falls short"
    yield from (f"  {each}" for each in short)


def shortcomings(rows: Sequence[Row], peer: tuple[float | None, float | None]) -> Iterator[str]:
    """In sentences, where ours is under what is asked of it, or under the plain call or a peer."""
    fp32, ships, faithful = rows[0], chosen(rows), best(rows)
    timed = "ratio" in fp32
    plain = next((row for row in rows if row["method"] == "plain"), None)
    for row in rows:
        if "error" in row and row["method"] != "plain":
            yield f"{row['scheme']} {row['method'] or ''} failed: {row['error'][:160]}"
    if ships is fp32:
        kept = [row for row in rows[1:] if row["method"] != "plain" and keeps(row)]
        if faithful is None:
            yield "fp32 ships: no int8 file was made"
        elif not kept:
            yield (
                f"fp32 ships: the most faithful int8 has {faithful['sqnr_db']:.1f} dB and "
                f"{100 * faithful['top1']:.1f} %"
            )
        elif timed:
            fastest = min(kept, key=lambda row: row.get("ratio", 9.9))
            yield f"fp32 ships: int8 does not pay, {fastest.get('ratio', 0):.2f} times its time"
    if plain and "sqnr_db" in plain and keeps(plain):
        if faithful is None or faithful["sqnr_db"] < plain["sqnr_db"] - 0.5:
            yield f"less faithful than the plain call, {plain['sqnr_db']:.1f} dB"
        if (
            timed
            and plain.get("ratio", 1.0) < 1
            and ships.get("ratio", 1.0) > plain["ratio"] + 0.03
        ):
            yield f"slower than the plain call, which takes {plain['ratio']:.2f} of fp32's time"
    judged_by = ships if timed else faithful
    if peer[0] and judged_by not in (None, fp32) and judged_by["sqnr_db"] < peer[0] - 1.0:
        yield f"{judged_by['sqnr_db']:.1f} dB, and the peer's like network had {peer[0]:.1f}"
    if timed and peer[1] and peer[1] > 1 and ships.get("ratio", 1.0) > 1.05 / peer[1]:
        yield (
            f"{ships.get('ratio', 1.0):.2f} of fp32's time, and the peer's like network "
            f"took {1 / peer[1]:.2f}"
        )


def compared_sets(names: Sequence[str], weights: Path) -> Iterator[str]:
    """How much the selection of calibration samples moves int8, in ONNX by true min-max."""
    yield f"{'network':16}" + "".join(f"{each:>14}" for each in SELECTIONS)
    for name in names:
        module, draw = trained(name, weights), KINDS[name].draw
        pool, labels = draw(2048, torch.Generator().manual_seed(7))
        inputs = draw(JUDGED_ON, torch.Generator().manual_seed(6))[0]
        with torch.no_grad():
            wanted, outputs = call(module, inputs), call(module, pool)
        logits = next(iter(outputs.values()))
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        line = f"{name:16}"
        for selection in SELECTIONS:
            ids = select(
                len(labels), CALIBRATED_WITH, selection, seed=0,
                labels=labels if labels.ndim == 1 else None,
                features=logits.flatten(1), losses=losses.flatten(1).mean(1) if losses.ndim > 1
                else losses,
            ) if selection != "stratified" or labels.ndim == 1 else None  # fmt: skip
            if ids is None:
                line += f"{'-':>14}"
                continue
            samples = single({key: tensor[list(ids)] for key, tensor in pool.items()})
            assert not [each for each in doubts(samples, pool) if "more than once" in each]
            network = edgekd.load_network(module, example=samples[0])
            with tempfile.TemporaryDirectory() as scratch:
                artifact = edgekd.export(
                    network, format="onnx", scheme="int8", calibration=samples, out=scratch
                )
                row = judged(artifact, inputs, wanted)
            line += f"{row['sqnr_db']:8.1f}/{100 * float(row['top1'] or 0):5.1f}"
        yield line


def kept(out: Path, format: str) -> Path:
    """Where the rows of a format are kept."""
    return out / f"rows-{format}.jsonl"


def read(out: Path, format: str) -> list[Row]:
    """The rows that were measured of a format."""
    place = kept(out, format)
    return [json.loads(t) for t in place.read_text().splitlines()] if place.exists() else []


def measure_all(out: Path, format: str, names: Sequence[str]) -> None:
    """Measures the networks that have no row, all in one process, in another where it dies."""
    while True:
        have = {row["network"] for row in read(out, format)}
        todo = [name for name in names if name not in have]
        if not todo:
            return
        argv = [sys.executable, __file__, "--out", str(out), "--cells", format, *todo]
        done = run_process(argv, timeout_s=NETWORK_TIMEOUT_S * len(todo))
        if {row["network"] for row in read(out, format)} == have:
            row = {"network": todo[0], "format": format, "scheme": "fp32", "method": None}
            row["error"] = f"its process died: {done.last_lines}"
            with kept(out, format).open("a") as file:
                file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--formats", nargs="*", default=list(FORMATS_HERE))
    parser.add_argument("--out", type=Path, default=Path("build/quantization-matrix"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--no-times", action="store_true")
    parser.add_argument("--sets", action="store_true")
    parser.add_argument("--cells", nargs="+", help=argparse.SUPPRESS)
    words = parser.parse_args()
    torch.set_num_threads(1)
    weights = words.out / "weights"
    if words.cells:
        format, *names = words.cells
        with kept(words.out, format).open("a") as file:
            for name in names:
                found = measured(name, format, words.out)
                # A network at a time: a process that dies loses one.
                file.writelines(json.dumps(row) + "\n" for row in found)
                file.flush()
        return
    names = words.only or list(KINDS)
    words.out.mkdir(parents=True, exist_ok=True)
    if words.sets:
        for line in compared_sets(names, weights):
            print(line, flush=True)
        return
    for name in [] if words.table else names:
        print(f"{name}: {100 * accuracy(name, trained(name, weights)):.1f} % right", flush=True)
    found = []
    for format in words.formats:
        if not words.table:
            measure_all(words.out, format, names)
        if format != "coreml" and not words.table and not words.no_times:
            time_all(words.out, format, names)
        found += read(words.out, format)
    wanted = [row for row in found if row["network"] in names]
    for line in table(wanted):
        print(line)


if __name__ == "__main__":
    main()
