"""Networks x formats x schemes: how each exports, and our files against the plain converter's.

    python tools/export_matrix.py                      # all networks of the tests, all cells
    python tools/export_matrix.py --only vit unet      # some
    python tools/export_matrix.py --latency            # latencies instead: ours / plain call
    python tools/export_matrix.py --json matrix.json

Each network has a process of its own, with a time limit; a crash is a row. "transposes" counts the
operators of a file that only move elements. A Core ML file is computed by the reference evaluator.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import edgekd
from edgekd.artifacts.artifact import load_artifact
from edgekd.benchmarking.benchmark import benchmark_all
from edgekd.errors import EdgekdError
from edgekd.evidence.sqnr import sqnr_db
from edgekd.formats import FORMATS
from edgekd.formats.inspection import read_graph
from edgekd.system.output import output_to
from edgekd.system.process import run_process
from tests.support import model_zoo as zoo
from tests.support.architectures import ARCHITECTURES
from tests.support.models import TRAPS, Trap

ROW_TIMEOUT_S = 300.0
TIMED = ("resnet", "mobilenet-v2", "mobilenet-v3", "convnext", "unet", "vit", "bert", "tcn", "crnn")


def networks() -> dict[str, Trap]:
    """All networks of the tests; those from timm and transformers only if these are installed."""
    cases = {**TRAPS, **ARCHITECTURES, **zoo.CASES}
    try:
        from tests.support import model_packages as zoo_packages

        zoo_packages.import_timm()
        cases.update(zoo_packages.CASES)
    except ImportError as error:
        print(f"without the networks of timm and transformers: {error}", file=sys.stderr)
    return cases


def cells() -> list[tuple[str, str]]:
    """Every format and scheme that edgekd exports."""
    return [(format, scheme) for format, module in FORMATS.items() for scheme in module.SCHEMES]


def measure_cell(name: str, format: str, scheme: str, out: Path) -> dict[str, Any]:
    """The row of one network in one format and scheme."""
    trap = networks()[name]
    generator = torch.Generator().manual_seed(1)
    network = edgekd.load_network(trap.build(), example=trap.draw(1, generator))
    samples = [trap.draw(1, generator) for _ in range(64)]
    row: dict[str, Any] = {"network": name, "format": format, "scheme": scheme}
    start = time.perf_counter()
    try:
        artifact = edgekd.export(
            network, format=format, scheme=scheme, calibration=samples, out=out
        )
        row["seconds"] = time.perf_counter() - start
        row["size_bytes"] = artifact.size_bytes
        graph = read_graph(artifact.path, format)
        row["operators"], row["transposes"] = graph.count, graph.transposes
        row["method"] = artifact.lineage["method"]
        agreement = edgekd.verify(artifact, network, [trap.draw(1, generator) for _ in range(64)])
        row["outcome"] = agreement.outcome.value
        row["sqnr_db"] = agreement.to_json()["sqnr_db"]
        row["top1"] = agreement.top1_agreement_frac
        row["error"] = agreement.detail
    except EdgekdError as error:
        row["outcome"] = "failed"
        row["error"] = f"{error.faults[0].what} {error.faults[0].got}"
    return row


def rows(names: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of the networks `names`, each measured in a process of its own."""
    for name in names:
        todo = cells()
        while todo:
            argv = [sys.executable, __file__, "--cells", name, *(f"{f}:{s}" for f, s in todo)]
            done = run_process(argv, timeout_s=ROW_TIMEOUT_S * len(todo))
            lines = done.stdout.decode().splitlines()
            measured = [json.loads(line) for line in lines if line.startswith("{")]
            yield from measured
            todo = todo[len(measured) :]
            if todo:
                ended = "time limit" if done.code is None else f"exit status {done.code}"
                format, scheme = todo.pop(0)
                yield {"network": name, "format": format, "scheme": scheme, "outcome": "crashed",
                       "error": f"{ended}: {done.last_lines}"}  # fmt: skip


def plain_converter(format: str) -> Callable[[torch.nn.Module, tuple[Any, ...], Path], None]:
    """The converter's own call, as in its documentation."""

    def onnx(module: torch.nn.Module, example: tuple[Any, ...], path: Path) -> None:
        program = torch.onnx.export(module, example, dynamo=True, external_data=False)
        assert program is not None
        program.save(str(path))

    def openvino(module: torch.nn.Module, example: tuple[Any, ...], path: Path) -> None:
        import openvino as ov

        # Without shapes, all dimensions would be dynamic and the timed shapes could differ.
        shapes = [tuple(tensor.shape) for tensor in example]
        model = ov.convert_model(module, example_input=example, input=shapes)
        # The agent feeds inputs by name, and these may have no name.
        for number, port in enumerate((*model.inputs, *model.outputs)):
            port.get_tensor().set_names({f"tensor_{number}"})
        ov.save_model(model, str(path))

    def litert(module: torch.nn.Module, example: tuple[Any, ...], path: Path) -> None:
        import litert_torch

        litert_torch.convert(module, example).export(str(path))

    return {"onnx": onnx, "openvino": openvino, "litert": litert}[format]


def default_precision(path: Path, example: dict[str, torch.Tensor]) -> dict[str, Any]:
    """An OpenVINO file in the plugin's default precision, compared with float32, in which edgekd
    verifies and times: the ratio of the median latencies, interleaved, on one thread, and the SQNR
    of the outputs. Empty if the default is float32."""
    import openvino as ov

    options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    requests = {}
    for hint in ({}, {"INFERENCE_PRECISION_HINT": "f32"}):
        compiled = ov.Core().compile_model(str(path), "CPU", {**options, **hint})
        name = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        requests[name] = compiled.create_infer_request()
    if len(requests) < 2:
        return {}
    feed = {name: tensor.numpy() for name, tensor in example.items()}
    times: dict[str, list[int]] = {name: [] for name in requests}
    for turn in range(60):
        for name, request in requests.items():
            for _ in range(6):
                start = time.perf_counter_ns()
                request.infer(feed)
                times[name] += [time.perf_counter_ns() - start] * (turn > 0)
    default, single = requests
    outputs = [{str(i): torch.from_numpy(request.get_output_tensor(i).data.copy())
                for i in range(len(request.output_tensors))}
               for request in (requests[single], requests[default])]  # fmt: skip
    return {"default_precision": default, "default_sqnr_db": sqnr_db(*outputs),
            "default_ratio": median(times[default]) / median(times[single])}  # fmt: skip


def latencies(names: list[str]) -> Iterator[dict[str, Any]]:
    """The median latency of our file over the plain converter's: fp32, interleaved, one thread."""
    for name in names:
        trap = networks()[name]
        generator = torch.Generator().manual_seed(1)
        module = trap.build().eval()
        example = trap.draw(1, generator)
        for format in ("onnx", "openvino", "litert"):
            row: dict[str, Any] = {"network": name, "format": format}
            with tempfile.TemporaryDirectory() as scratch:
                log = Path(scratch) / "log.txt"
                path = Path(scratch) / f"plain{FORMATS[format].SUFFIX}"
                try:
                    with output_to(log):
                        plain_converter(format)(module, tuple(example.values()), path)
                    network = edgekd.load_network(module, example=example)
                    ours = edgekd.export(network, format=format, out=scratch)
                    first, second = benchmark_all([load_artifact(path), ours])
                    assert second.ratio is not None
                    row |= {"plain_ms": first.percentile_ms(0.5).value,
                            "ours_ms": second.percentile_ms(0.5).value,
                            "ratio": second.ratio.value,
                            "interval": [second.ratio.low, second.ratio.high]}  # fmt: skip
                    if format == "openvino":
                        row |= default_precision(ours.path, example)
                except Exception as error:  # noqa: BLE001  a converter may raise anything
                    row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
            yield row


def row_text(row: dict[str, Any]) -> str:
    """A row as a line of text."""
    if "ratio" in row:
        low, high = row["interval"]
        default = (
            f"  in {row['default_precision']}, its default: {row['default_ratio']:.2f} times f32, "
            f"{row['default_sqnr_db']:.0f} dB"
            if "default_ratio" in row
            else ""
        )
        return (
            f"{row['network']:36} {row['format']:9} plain {row['plain_ms']:8.4f} ms  "
            f"ours {row['ours_ms']:8.4f} ms  {row['ratio']:.3f} ({low:.3f} to {high:.3f}){default}"
        )
    size = f"{row['size_bytes'] / 1024:8.0f} KiB" if "size_bytes" in row else " " * 12
    sqnr = row.get("sqnr_db")
    return (
        f"{row['network']:36} {row['format']:9} {row.get('scheme', ''):5} "
        f"{row.get('outcome', 'failed'):10} "
        f"{'exact' if sqnr is None and row.get('outcome') == 'passed' else f'{sqnr or 0:5.1f}'} dB "
        f"{row.get('transposes', ''):>3} transposes {size} {row.get('seconds', 0):6.1f} s  "
        f"{row.get('error', '')[:160]}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cells", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.cells:
        name, *pairs = args.cells
        for pair in pairs:
            with tempfile.TemporaryDirectory() as scratch:
                row = measure_cell(name, *pair.split(":"), Path(scratch))
            print(json.dumps(row), flush=True)
        return
    known = list(networks())
    unknown = [name for name in args.only or () if name not in known]
    if unknown:
        parser.error(f"no network {', '.join(unknown)}; there are {', '.join(known)}")
    names = args.only or (list(TIMED) if args.latency else known)
    results = []
    for row in latencies(names) if args.latency else rows(names):
        results.append(row)
        print(row_text(row), flush=True)
    if not args.latency:
        outcomes = [row["outcome"] for row in results]
        print({outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))})
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
