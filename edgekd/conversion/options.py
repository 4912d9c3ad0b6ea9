"""What can be written as a file, found before any work."""

from __future__ import annotations

import typing

from edgekd.artifacts.quantization_params import Io
from edgekd.artifacts.scheme import SCHEMES
from edgekd.errors import Fault, MissingPackageError, RecipeError, RefusedError, listed, unknown
from edgekd.formats import find_format, format_names
from edgekd.formats.integer_io import IO_FORMATS, IO_SCHEME, io_refusal
from edgekd.formats.onnx import OPSETS
from edgekd.formats.quantization_methods import methods_of
from edgekd.system.packages import missing


def check_exportable(
    format: str,
    scheme: str,
    opset: int | None = None,
    method: str | None = None,
    io: str = "float32",
) -> None:
    """Raises what `export` would raise of a format and a scheme, before any work."""
    for kind, name, known in (
        ("format", format, format_names()),
        ("scheme", scheme, list(SCHEMES)),
        ("io", io, list(typing.get_args(Io))),
    ):
        if name not in known:
            raise RecipeError(unknown(kind, name, known, kind))
    if opset is not None and (format != "onnx" or not OPSETS[0] <= opset <= OPSETS[1]):
        raise RecipeError(
            Fault(
                what="This file cannot have the operators of that version.",
                at="opset",
                got=f"{opset}, format {format}",
                expected=f"{OPSETS[0]} to {OPSETS[1]}, format onnx",
                fix="leave opset out, or take one that the runtime's release notes name",
            )
        )
    module = find_format(format)
    if scheme not in module.SCHEMES:
        raise RefusedError(
            Fault(
                what=f"{format} cannot be written in {scheme} here.",
                at=f"format {format}",
                got=scheme,
                expected=listed(module.SCHEMES),
                fix=f"use one of these: {listed(module.SCHEMES)}",
            )
        )
    whole = io_refusal(format, scheme, io)
    if whole is not None:
        raise RefusedError(
            Fault(
                what=f"A {format} file in {scheme} does not take and give {io}.",
                at=f"format {format}, io",
                got=f"{io}: {whole}",
                expected=f"float32; int8 or uint8 in scheme {IO_SCHEME} of {listed(IO_FORMATS)}",
                fix="leave io out, or take one of these",
            )
        )
    methods = methods_of(format, scheme)
    if method is not None and method not in methods:
        raise RecipeError(
            Fault(
                what=f"{format} has no method {method!r} for {scheme}.",
                at="method",
                got=repr(method),
                expected=listed(methods) or f"none: {scheme} is written in one way",
                fix="leave the method out: the first that suits the network is taken",
            )
        )
    absent = missing(module.PACKAGES, extra=module.EXTRA)
    if absent:
        raise MissingPackageError(absent)
