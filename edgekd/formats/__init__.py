"""The formats of model files, one package each: conversion, quantization and inspection of a file.

`FORMATS` is the table of the built-in ones; a package of your own adds one by an entry point of the
group `edgekd.formats`. Whatever differs between formats is a member of the format's package, read
through `edgekd.formats.capabilities`; no other room asks which format it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgekd.errors import RecipeError, unknown
from edgekd.formats import coreml, litert, ncnn, onnx, openvino

if TYPE_CHECKING:
    from edgekd.artifacts.graph import Graph
    from edgekd.artifacts.operators import OperatorRoles
    from edgekd.artifacts.quantization_params import QuantizationParams
    from edgekd.artifacts.quantizer_rules import QuantizerRules
    from edgekd.artifacts.target import Target
    from edgekd.artifacts.weights import Constant, NamedTensors
    from edgekd.data import Inputs
    from edgekd.formats.lint import LintFinding
    from edgekd.formats.options import ExportOptions
    from edgekd.formats.reference import Reference
    from edgekd.network.architecture import Family
    from edgekd.network.network import Network
    from edgekd.recipe.bundle import Preprocessing


class Format(Protocol):
    """The members that every format's package has.

    Attributes:
        SUFFIX: suffix of the file or folder that the runtime loads.
        RUNTIME: name of the runtime, as the agent on the device knows it.
        EXTRA: name of the optional dependencies it needs.
        PACKAGES: the modules of that extra that conversion and the runtime import.
        SCHEMES: the schemes it can be written in, each with a description of its default method.
    """

    SUFFIX: str
    RUNTIME: str
    EXTRA: str
    PACKAGES: tuple[str, ...]
    SCHEMES: dict[str, str]

    def convert(
        self, network: Network, calibration: Sequence[Inputs], path: Path, options: ExportOptions
    ) -> str:
        """Writes `network` to `path`, by the format's own converter and quantizer.

        Args:
            calibration: inputs by name, batch first; empty where the scheme and method need none.
            options: the scheme, and options that were checked against the members below: without
                `METHODS` there is no method, without `OPSETS` no opset, without `INTEGER_IO` no
                integer I/O. Images are turned to channels last before.

        Returns:
            What was done: `SCHEMES[scheme]` or `METHODS[scheme][method]`, with a note where the
            converter took another way. The candidate's row shows it where it is not the default.

        Raises:
            Exception: whatever the converter raises; the caller reports it with the log.
        """


class OptionalMembers(Protocol):
    """The members that a format's package may have, and what edgekd does without them.

    Attributes:
        TITLE: the format's proper name in sentences. Without it: its name in the table.
        SPARSE: what its runtime makes of weights that are zero, with a source. Without it: unknown.
        AGENT_RUNTIME: path of a Python file with a class `Runtime`, which is sent to the device
            beside the agent and loads the files there; see `edgekd.devices.on_device.agent`.
            Without it: `RUNTIME` is one of the agent's own.
        SYSTEMS: the operating systems that have the runtime, as `platform.system()` names them.
            Without it: all.
        ACCELERATORS: what the runtime computes on by itself: cpu, gpu, npu. Without it: cpu.

        METHODS: the quantization methods of a scheme, by name, each with a description; the first
            is the default. Without it: every scheme has one method.
        RANKING: by scheme, the methods to try on a network of an architecture, best first. Without
            a scheme here: all of its methods, in order.
        FALLBACKS: by scheme, the methods to try after those missed what is accepted. Without a
            scheme here: its other methods, in order.
        SAMPLED_METHODS: methods that use calibration samples though their scheme needs none.
        REDUCE_RANGE: schemes whose kernels may saturate with 8-bit weights on old processors, so
            that `ExportOptions.reduce_range` matters. Without it: it is ignored.
        QUANTIZER_RULES: by method of scheme int8, where the quantizer inserts quantizers. Without
            it: no quantization-aware training.

        INTEGER_IO: whether static int8 files can have integer inputs and outputs.
        INTEGER_IO_REFUSAL: why they cannot, in a sentence.
        OPSETS: the oldest and the newest opset that can be asked for. Without it: none can.
        CHANNELS_LAST: whether files take images as NHWC unless asked otherwise. Without it: NCHW.
        FIXED_SHAPES: whether files have static shapes alone. Without it: a file with dynamic
            dimensions is run at other sizes before it is accepted.
        SINGLE_SAMPLE: whether files have a batch of one alone. Without it: any batch.
        FP16_SCHEMES: schemes whose files store float16. Without it: fp16.
        FP16_COMPUTE: whether such a file computes in float16 too, so that activations must fit.
            Without it: weights alone are checked.
        UNSUPPORTED_INPUTS: by data type, why a file cannot have an input of it.
        OPERATORS: the names of the operators that edgekd looks for. Without it: transposes,
            unrolled layers and weights left in float are not reported.
    """

    TITLE: str
    SPARSE: str
    AGENT_RUNTIME: Path
    SYSTEMS: tuple[str, ...]
    ACCELERATORS: tuple[str, ...]
    METHODS: Mapping[str, Mapping[str, str]]
    RANKING: Mapping[str, Mapping[Family, tuple[str, ...]]]
    FALLBACKS: Mapping[str, tuple[str, ...]]
    SAMPLED_METHODS: tuple[str, ...]
    REDUCE_RANGE: tuple[str, ...]
    QUANTIZER_RULES: Mapping[str, QuantizerRules]
    INTEGER_IO: bool
    INTEGER_IO_REFUSAL: str
    OPSETS: tuple[int, int]
    CHANNELS_LAST: bool
    FIXED_SHAPES: bool
    SINGLE_SAMPLE: bool
    FP16_SCHEMES: tuple[str, ...]
    FP16_COMPUTE: bool
    UNSUPPORTED_INPUTS: Mapping[str, str]
    OPERATORS: OperatorRoles

    def layers(self, network: Network) -> list[str]:
        """The operators with weights in the file of `network`, in order, by the names that
        `ExportOptions.excluded_operators` takes. Without it: no mixed precision."""

    def opset_of(self, path: Path) -> int:
        """The opset of the file at `path`, for its card. Without it: the card names none."""

    def quantization(self, path: Path) -> dict[str, QuantizationParams]:
        """The scale and zero point of each integer input and output of the file that stands for
        real numbers, by name. Without it: such files are taken to have none."""

    def read_graph(self, path: Path) -> Graph:
        """The operators in the file at `path`. Without it: no lint, no operator counts, no check
        that anything was quantized. Raises a ValueError where the file is not of this format."""

    def read_weights(self, path: Path) -> Iterator[Constant]:
        """The constants in the file at `path`. Without it: the share of quantized weights is
        unknown."""

    def run_tensors(self, path: Path, inputs: Mapping[str, Any]) -> NamedTensors:
        """Every tensor of real numbers that the file computes, in the order it does. Without it: no
        layer-by-layer comparison, no layer sensitivity."""

    def quantized_tensors(self, path: Path) -> dict[str, str]:
        """The tensors that are quantized right behind, each with the name of the dequantized one:
        with fusions, a running file has only that. Without it: none."""

    def embed(
        self, path: Path, metadata: Mapping[str, str], preprocessing: Mapping[str, Preprocessing]
    ) -> None:
        """Puts `metadata` into the file at `path` where the format's tools look for it; see
        `edgekd.formats.capabilities.embed`. Without it: the bundle's manifest alone has it."""

    def lint(self, graph: Graph, target: Target, scheme: str) -> Iterable[LintFinding]:
        """What in `graph`, written in `scheme`, will not run well on `target`, beside the rules of
        every format. Without it: those rules alone."""

    def reference(self, path: Path) -> Reference:
        """An evaluator of the file at `path` for devices without its runtime. Without it: such a
        candidate is unavailable.

        Raises:
            UnknownOperatorError: the evaluator lacks an operator.
            ValueError, OSError: the file is not one of this format.
        """


FORMATS: dict[str, Format] = {
    "onnx": onnx,
    "openvino": openvino,
    "litert": litert,
    "coreml": coreml,
    "ncnn": ncnn,
}


def find_format(name: str) -> Format:
    """The format `name`: of this table, or an installed package's entry point `edgekd.formats`.

    Raises:
        RecipeError: there is no such format.
    """
    if name in FORMATS:
        return FORMATS[name]
    entries = {entry.name: entry for entry in entry_points(group="edgekd.formats")}
    if name not in entries:
        raise RecipeError(unknown("format", name, format_names(), "format"))
    module: Format = entries[name].load()
    return module


def format_names() -> list[str]:
    """The names of all formats, built in and installed."""
    return [*FORMATS, *(entry.name for entry in entry_points(group="edgekd.formats"))]
