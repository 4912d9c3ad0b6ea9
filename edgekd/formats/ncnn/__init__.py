"""ncnn, converted by pnnx from TorchScript.

ncnn computes one sample at a time: its tensors have no batch. Names and shapes of inputs and
outputs are ours: pnnx calls them in0 and out0, and ncnn's files need no shapes.
Source: https://github.com/Tencent/ncnn/wiki, https://github.com/pnnx/pnnx
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.errors import listed
from edgekd.formats.capture import exported, first_successful, traced
from edgekd.formats.decompositions import ncnn
from edgekd.formats.ncnn.param import INPUT, WHOLE, NcnnLayer, read_param, write_param
from edgekd.system.packages import need
from edgekd.system.process import run_process

if TYPE_CHECKING:
    import torch

    from edgekd.data import Inputs
    from edgekd.network.network import Network

SUFFIX = ".param"
RUNTIME = "ncnn"
EXTRA = "ncnn"
PACKAGES: tuple[str, ...] = ("ncnn", "pnnx")
SCHEMES = {
    "fp32": "pnnx",
    "fp16": "weights in fp16; ARM computes in fp16 too, other processors widen them",
}
METHODS: dict[str, dict[str, str]] = {}
SPARSE = (
    "ncnn's kernels multiply zeros like any value: no faster, smaller when zipped "
    "(github.com/Tencent/ncnn/wiki/faq.en, no sparse kernels)"
)

TIMEOUT_S = 600.0
DTYPES = {
    "float32": "f32", "float64": "f64", "int64": "i64", "int32": "i32", "bool": "bool",
    "float16": "f16", "int16": "i16", "int8": "i8", "uint8": "u8",
}  # fmt: skip
LEAST_DB = 30
"""What half precision keeps on any network; what lost an axis or a size is far below."""
SIZES = {1: ("0",), 2: ("0", "1"), 3: ("0", "1", "2"), 4: ("0", "1", "11", "2")}
"""The parameters of an `Input` that hold its sizes, the last axis first: width, height, depth,
channels."""


def convert(
    network: Network,
    scheme: str,
    calibration: Sequence[Inputs],  # noqa: ARG001  of the room's function; nothing is calibrated
    path: Path,
    *,
    method: str | None = None,  # noqa: ARG001  nor is there a choice
) -> str:
    """Writes `network` to `path` and its weights beside it; see `Format`."""
    pnnx = need("pnnx", extra=EXTRA)
    need("ncnn", extra=EXTRA)
    program = exported(network)
    half = scheme == "fp16"

    def by(make: Callable[[], Any]) -> Callable[[], None]:
        def way() -> None:
            with warnings.catch_warnings():
                # Of shapes that a trace freezes: they are fixed in the file too.
                warnings.simplefilter("ignore")
                script = make()
            _write(pnnx.EXEC_PATH, script, network, path, half=half)

        return way

    ways = {
        "TorchScript": by(lambda: traced(network)),
        "torch.export": by(lambda: _traced(program.module(), network)),
        "torch.export, decomposed": by(
            lambda: _traced(program.run_decompositions(ncnn()).module(), network)
        ),
    }
    _, note = first_successful(ways)
    return SCHEMES[scheme] + note


def _traced(module: torch.nn.Module, network: Network) -> Any:
    """An exported program's module as TorchScript: sizes are numbers in it, and calls that pnnx
    does not know are made of ones that it does."""
    import torch

    names = network.signature.input_names

    class InOrder(torch.nn.Module):
        """Takes and returns tensors in order, as traces do."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.module(**dict(zip(names, tensors, strict=True))).values())

    example = tuple(network.example[name] for name in names)
    return torch.jit.trace(InOrder(), example, check_trace=False)


def _write(program: str, script: Any, network: Network, path: Path, *, half: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch)
        script.save(str(made / "network.pt"))
        shapes = ",".join(
            f"[{','.join(map(str, network.example[name].shape))}]"
            f"{DTYPES[str(network.example[name].dtype).removeprefix('torch.')]}"
            for name in network.signature.input_names
        )
        argv = [program, "network.pt", f"inputshape={shapes}", f"fp16={int(half)}"]
        done = run_process(argv, timeout_s=TIMEOUT_S, cwd=made)
        if done.code != 0 or not (made / "network.ncnn.param").exists():
            raise RuntimeError(f"pnnx ended with {done.code}: {done.last_lines}")
        layers = read_param(made / "network.ncnn.param")
        # What pnnx cannot write it leaves as it is, and ncnn refuses when it loads the file.
        left = dict.fromkeys(layer.kind for layer in layers if "." in layer.kind)
        if left:
            raise RuntimeError(f"pnnx knows no way to write {listed(left)} for ncnn")
        named = [_named(layer, network) for layer in layers]
        path.with_suffix(".bin").write_bytes((made / "network.ncnn.bin").read_bytes())
        write_param(path, named)
    _compare(path, network)


def _compare(path: Path, network: Network) -> None:
    """Raises where the file computes something else: pnnx drops what it does not know of a call,
    such as an axis, without a word, and then another way may keep it."""
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
        code, found = extractor.extract(name)
        got = np.array(found)[None]
        if code or got.shape != tuple(wanted.shape):
            raise RuntimeError(f"{name} has the shape {got.shape}, not {tuple(wanted.shape)}")
        expected = wanted.double().numpy()
        finite = np.isfinite(expected)
        signal += float((expected[finite] ** 2).sum())
        noise += float(((expected - got)[finite] ** 2).sum())
    if noise > signal * 10 ** (-LEAST_DB / 10):
        raise RuntimeError(f"what pnnx wrote computes something else: {signal:.3g} to {noise:.3g}")


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
            places = zip(SIZES[len(sizes)], reversed(sizes), strict=True)
            values |= {place: str(size) for place, size in places}
        if not tensor.is_floating_point() and str(tensor.dtype) != "torch.bool":
            values[str(WHOLE)] = "1"
    takes, gives = (tuple(names.get(n, n) for n in each) for each in (layer.takes, layer.gives))
    return NcnnLayer(layer.kind, layer.name, takes, gives, values)
