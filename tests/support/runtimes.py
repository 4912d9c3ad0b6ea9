"""The runtimes called as an app calls them: a file and arrays by name, no edgekd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


def onnx(path: Path, feed: Arrays) -> Arrays:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feed)), strict=True))


def openvino(path: Path, feed: Arrays) -> Arrays:
    import openvino as ov

    config = {"INFERENCE_PRECISION_HINT": "f32"}
    found = ov.Core().compile_model(path, "CPU", config)(dict(feed))
    return {port.get_any_name(): value for port, value in found.items()}


def litert(path: Path, feed: Arrays) -> Arrays:
    from ai_edge_litert.interpreter import Interpreter

    found: Arrays = Interpreter(model_path=str(path)).get_signature_runner()(**feed)
    return found


RUN: dict[str, Callable[[Path, Arrays], Arrays]] = {
    "onnx": onnx,
    "openvino": openvino,
    "litert": litert,
}
