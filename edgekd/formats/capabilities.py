"""What a format can do: its optional members, each with the default that stands for its absence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.operators import OperatorRoles
from edgekd.artifacts.quantization_params import QuantizationParams
from edgekd.artifacts.quantizer_rules import FULL_RANGE, QuantizerRules
from edgekd.errors import EdgekdError
from edgekd.formats import FORMATS, find_format, format_names
from edgekd.formats.integer_io import IO_SCHEME
from edgekd.formats.reference import Reference
from edgekd.network.network import Network
from edgekd.network.preprocessing import images_of
from edgekd.recipe.bundle import Preprocessing


def member(format: str, name: str, default: Any) -> Any:
    """The optional member `name` of `format`; see `edgekd.formats.OptionalMembers`."""
    return getattr(find_format(format), name, default)


def title(format: str) -> str:
    """The format's proper name in sentences."""
    return str(member(format, "TITLE", format))


def sparse_support(format: str) -> str:
    """What the format's runtime makes of weights that are zero."""
    return str(member(format, "SPARSE", "not known"))


def operator_roles(format: str) -> OperatorRoles:
    """The names of the operators that are looked for in a file of `format`."""
    roles: OperatorRoles = member(format, "OPERATORS", OperatorRoles())
    return roles


def runs_on(format: str, system: str) -> bool:
    """Whether `system`, a name of `platform.system()`, can have the format's runtime."""
    systems = member(format, "SYSTEMS", ())
    return not systems or system in systems


def computes_on(format: str, accelerator: str) -> bool:
    """Whether the format's runtime computes on `accelerator` by itself."""
    return accelerator in member(format, "ACCELERATORS", ("cpu",))


def agent_runtime(runtime: str) -> Path | None:
    """The file that loads artifacts on a device for the runtime of this name, where a format that
    is not built in brings it."""
    for name in format_names():
        if name not in FORMATS:
            module = find_format(name)
            if runtime == module.RUNTIME:
                path: Path | None = getattr(module, "AGENT_RUNTIME", None)
                return path
    return None


def opset_range(format: str) -> tuple[int, int] | None:
    """The oldest and the newest opset that `format` can be asked for; None where it has none."""
    opsets: tuple[int, int] | None = member(format, "OPSETS", None)
    return opsets


def has_fixed_shapes(format: str) -> bool:
    """Whether files of `format` have static shapes alone."""
    return bool(member(format, "FIXED_SHAPES", False))


def takes_single_samples(format: str) -> bool:
    """Whether files of `format` have a batch of one alone."""
    return bool(member(format, "SINGLE_SAMPLE", False))


def takes_channels_last(format: str) -> bool:
    """Whether files of `format` take images as NHWC unless asked otherwise."""
    return bool(member(format, "CHANNELS_LAST", False))


def laid_out(artifact: Artifact, network: Network) -> Artifact:
    """`artifact`, a file of `network`, with the layout of its images known.

    The card beside a file states it. A file that was copied without its card takes images as its
    format does by default, which is how `edgekd export` writes it.
    """
    if artifact.signature is not None or not takes_channels_last(artifact.format):
        return artifact
    images = list(images_of(network))
    return replace(artifact, lineage={**artifact.lineage, "channels_last": images})


def unsupported_input(format: str, dtype: str) -> str | None:
    """Why a file of `format` cannot have an input of `dtype`, or None."""
    reason: str | None = member(format, "UNSUPPORTED_INPUTS", {}).get(dtype)
    return reason


def stores_fp16(format: str, scheme: str) -> bool:
    """Whether a file of `format` in `scheme` stores numbers in float16."""
    return scheme in member(format, "FP16_SCHEMES", ("fp16",))


def computes_fp16(format: str) -> bool:
    """Whether a file that stores float16 computes in float16 too."""
    return bool(member(format, "FP16_COMPUTE", False))


def integer_io_formats() -> list[str]:
    """The formats whose static int8 files can have integer inputs and outputs."""
    return [name for name in format_names() if member(name, "INTEGER_IO", False)]


def io_refusal(format: str, scheme: str, io: str) -> str | None:
    """Why a file of `format` in `scheme` does not have inputs and outputs of type `io`, or None."""
    if io == "float32":
        return None
    if not member(format, "INTEGER_IO", False):
        return str(member(format, "INTEGER_IO_REFUSAL", f"{format} has no such option"))
    if scheme != IO_SCHEME:
        return (
            f"only static {IO_SCHEME} quantizes its inputs and outputs; those of {scheme} are "
            "float32"
        )
    return None


def has_reduced_range(format: str, scheme: str) -> bool:
    """Whether int8 weights of `scheme` may have to leave one of their bits unused."""
    return scheme in member(format, "REDUCE_RANGE", ())


def layer_lister(format: str) -> Callable[[Network], list[str]] | None:
    """The function that lists a network's operators with weights by the file's names for them, or
    None."""
    function: Callable[[Network], list[str]] | None = member(format, "layers", None)
    return function


def reference_evaluator(format: str) -> Callable[[Path], Reference] | None:
    """The function that loads a file into the format's reference evaluator, or None."""
    function: Callable[[Path], Reference] | None = member(format, "reference", None)
    return function


def simulated_methods(format: str) -> Mapping[str, QuantizerRules]:
    """The methods of static int8 that quantization-aware training simulates, with their rules."""
    rules: Mapping[str, QuantizerRules] = member(format, "QUANTIZER_RULES", {})
    return rules


def simulated_formats() -> list[str]:
    """The formats that quantization-aware training can train for."""
    return [name for name in format_names() if simulated_methods(name)]


def quantizer_rules(format: str, method: str, *, reduce_range: bool = True) -> QuantizerRules:
    """Where the quantizer of `format` inserts quantizers by `method`.

    Raises:
        KeyError: it is not simulated.
    """
    rules = simulated_methods(format)[method]
    if reduce_range:
        return rules
    return replace(rules, codes=replace(FULL_RANGE, least_frac=rules.codes.least_frac))


def embed(
    format: str, path: Path, metadata: Mapping[str, str], preprocessing: Mapping[str, Preprocessing]
) -> bool:
    """Puts `metadata` into the file at `path`, where the tools of its format look for it.

    Args:
        metadata: name, version, target, scheme, outputs (logits or probabilities); description,
            licence, preprocessing and labels, one on a line, where the recipe has them.
        preprocessing: by input, what an app does before the model.

    Returns:
        Whether the format has such a field.
    """
    function = member(format, "embed", None)
    if function is None:
        return False
    function(path, metadata, preprocessing)
    return True


def quantization(format: str, path: Path) -> dict[str, QuantizationParams]:
    """The scale and zero point of each integer input and output of the file at `path`, by name, as
    the file states them; token ids, raw images and the like have none."""
    function = member(format, "quantization", None)
    return function(path) if function else {}


def read_quantization(artifact: Artifact) -> Artifact:
    """`artifact`; if it has no card, with the `quantization` that its own file states.

    Raises:
        MissingPackageError: the package that reads the format is not installed.
    """
    if artifact.lineage or not hasattr(find_format(artifact.format), "quantization"):
        return artifact
    try:
        params = quantization(artifact.format, artifact.path)
    except EdgekdError:
        raise
    except Exception:  # noqa: BLE001  The runtime refuses a broken file, and says why.
        return artifact
    return replace(artifact, lineage={"quantization": {n: vars(p) for n, p in params.items()}})
