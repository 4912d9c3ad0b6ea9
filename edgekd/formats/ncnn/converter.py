"""Converts a network to ncnn by pnnx, from TorchScript.

ncnn computes one sample at a time: its tensors have no batch. edgekd adds the names and shapes of
inputs and outputs: pnnx calls them in0 and out0, and ncnn's files need no shapes.
Source: https://github.com/Tencent/ncnn/wiki, https://github.com/pnnx/pnnx
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.errors import listed
from edgekd.formats.capture import exported, first_successful, trace_module, traced
from edgekd.formats.decompositions import ncnn
from edgekd.formats.ncnn.param import INPUT, IS_INTEGER, NcnnLayer, read_param, write_param
from edgekd.formats.options import ExportOptions
from edgekd.system.packages import need
from edgekd.system.process import run_process
from edgekd.system.scratch import scratch_folder

if TYPE_CHECKING:
    from edgekd.data import Inputs
    from edgekd.network.network import Network

EXTRA = "ncnn"
SCHEMES = {
    "fp32": "pnnx",
    "fp16": "weights in fp16; Arm computes in fp16 too, other processors widen them",
}

TIMEOUT_S = 600.0
DTYPES = {
    "float32": "f32", "float64": "f64", "int64": "i64", "int32": "i32", "bool": "bool",
    "float16": "f16", "int16": "i16", "int8": "i8", "uint8": "u8",
}  # fmt: skip
LEAST_DB = 30
"""SQNR that fp16 has on any network; a file that lost an axis or a size is far below."""
SIZES = {1: ("0",), 2: ("0", "1"), 3: ("0", "1", "2"), 4: ("0", "1", "11", "2")}
"""The parameters of an `Input` that hold its sizes, by number of axes, last axis first: width,
height, depth, channels."""


def convert(
    network: Network,
    calibration: Sequence[Inputs],  # noqa: ARG001  nothing is calibrated
    path: Path,
    options: ExportOptions,
) -> str:
    """Writes `network` to `path` and its weights beside it; see `Format`."""
    pnnx = need("pnnx", extra=EXTRA)
    need("ncnn", extra=EXTRA)
    program = exported(network)
    half = options.scheme == "fp16"

    def written(make: Callable[[], Any]) -> Callable[[], None]:
        def write() -> None:
            with warnings.catch_warnings():
                # Tracing warns of shapes that it freezes: they are fixed in the file too.
                warnings.simplefilter("ignore")
                script = make()
            _write(pnnx.EXEC_PATH, script, network, path, half=half)

        return write

    paths = {
        "TorchScript": written(lambda: traced(network)),
        # Of a program, sizes are numbers, and calls that pnnx does not know are decomposed.
        "torch.export": written(lambda: trace_module(program.module(), network)),
        "torch.export, decomposed": written(
            lambda: trace_module(program.run_decompositions(ncnn()).module(), network)
        ),
    }
    _, note = first_successful(paths)
    return SCHEMES[options.scheme] + note


def _write(program: str, script: Any, network: Network, path: Path, *, half: bool) -> None:
    with scratch_folder() as scratch:
        folder = scratch
        script.save(str(folder / "network.pt"))
        shapes = ",".join(
            f"[{','.join(map(str, network.example[name].shape))}]"
            f"{DTYPES[str(network.example[name].dtype).removeprefix('torch.')]}"
            for name in network.signature.input_names
        )
        argv = [program, "network.pt", f"inputshape={shapes}", f"fp16={int(half)}"]
        done = run_process(argv, timeout_s=TIMEOUT_S, cwd=folder)
        if done.code != 0 or not (folder / "network.ncnn.param").exists():
            raise RuntimeError(f"pnnx ended with {done.code}: {done.last_lines}")
        layers = read_param(folder / "network.ncnn.param")
        # pnnx leaves an operator that it cannot convert, and ncnn refuses the file.
        left = dict.fromkeys(layer.kind for layer in layers if "." in layer.kind)
        if left:
            raise RuntimeError(f"pnnx cannot convert {listed(left)} to ncnn")
        named = [_named(layer, network) for layer in layers]
        path.with_suffix(".bin").write_bytes((folder / "network.ncnn.bin").read_bytes())
        write_param(path, named)
    _compare(path, network)


def _compare(path: Path, network: Network) -> None:
    """Raises a RuntimeError if the file's outputs are not the network's.

    pnnx silently drops arguments that it does not know, such as an axis, and another export path
    may keep them.
    """
    import numpy as np
    import torch

    from edgekd.network.network import Exportable

    library = need("ncnn", extra=EXTRA)
    net = library.Net()
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise RuntimeError("ncnn does not take the file that pnnx wrote")
    extractor = net.create_extractor()
    for name, tensor in network.example.items():
        array = tensor.numpy().astype("float32" if tensor.dtype.is_floating_point else "int32")
        if str(tensor.dtype) == "torch.bool":
            array = array.astype("float32")
        extractor.input(name, library.Mat(array[0] if array.ndim > 1 else array).clone())
    signal = noise = 0.0
    with torch.no_grad():
        outputs = Exportable(network)(**network.example)
    for name, wanted in outputs.items():
        code, output = extractor.extract(name)
        got = np.array(output)[None]
        if code or got.shape != tuple(wanted.shape):
            raise RuntimeError(f"{name} has the shape {got.shape}, not {tuple(wanted.shape)}")
        expected = wanted.double().numpy()
        finite = np.isfinite(expected)
        signal += float((expected[finite] ** 2).sum())
        noise += float(((expected - got)[finite] ** 2).sum())
    if noise > signal * 10 ** (-LEAST_DB / 10):
        raise RuntimeError(
            f"the file that pnnx wrote gives other outputs: signal {signal:.3g}, noise {noise:.3g}"
        )


def _named(layer: NcnnLayer, network: Network) -> NcnnLayer:
    """`layer` with the user's names, and the sizes of an input."""
    signature = network.signature
    names = {f"in{i}": name for i, name in enumerate(signature.input_names)}
    names |= {f"out{i}": name for i, name in enumerate(signature.output_names)}
    values = dict(layer.values)
    if layer.kind == INPUT:
        tensor = network.example[names[layer.gives[0]]]
        sizes = list(tensor.shape[1:] if tensor.ndim > 1 else tensor.shape)
        if len(sizes) in SIZES:
            pairs = zip(SIZES[len(sizes)], reversed(sizes), strict=True)
            values |= {parameter: str(size) for parameter, size in pairs}
        if not tensor.is_floating_point() and str(tensor.dtype) != "torch.bool":
            values[str(IS_INTEGER)] = "1"
    takes, gives = (tuple(names.get(n, n) for n in side) for side in (layer.takes, layer.gives))
    return NcnnLayer(layer.kind, layer.name, takes, gives, values)
