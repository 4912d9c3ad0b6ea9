"""Call the runtimes as an app does, without edgekd: a file, and arrays by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


def onnx(path: Path, feed: Arrays) -> Arrays:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feed)), strict=True))


def openvino(path: Path, feed: Arrays) -> Arrays:
    import openvino as ov

    config = {"INFERENCE_PRECISION_HINT": "f32"}
    results = ov.Core().compile_model(path, "CPU", config)(dict(feed))
    return {port.get_any_name(): value for port, value in results.items()}


def litert(path: Path, feed: Arrays) -> Arrays:
    from ai_edge_litert.interpreter import Interpreter

    outputs: Arrays = Interpreter(model_path=str(path)).get_signature_runner()(**feed)
    return outputs


RUN: dict[str, Callable[[Path, Arrays], Arrays]] = {
    "onnx": onnx,
    "openvino": openvino,
    "litert": litert,
}
