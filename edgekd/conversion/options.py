"""Checks that a format can be written as asked, before any work."""

from __future__ import annotations

import typing

from edgekd.artifacts.quantization_params import Io
from edgekd.artifacts.scheme import SCHEMES
from edgekd.errors import Fault, MissingPackageError, RecipeError, RefusedError, listed, unknown
from edgekd.formats import find_format, format_names
from edgekd.formats.capabilities import integer_io_formats, io_refusal, opset_range
from edgekd.formats.integer_io import IO_SCHEME
from edgekd.formats.options import ExportOptions
from edgekd.formats.quantization_methods import methods_of
from edgekd.system.packages import missing


def check_exportable(format: str, options: ExportOptions) -> None:
    """Raises what `export` raises for a format and its options, before any work."""
    scheme, method = options.scheme, options.method
    for kind, name, known in (
        ("format", format, format_names()),
        ("scheme", scheme, list(SCHEMES)),
        ("io", options.io, list(typing.get_args(Io))),
    ):
        if name not in known:
            raise RecipeError(unknown(kind, name, known, kind))
    _check_opset(format, options.opset)
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
    refusal = io_refusal(format, scheme, options.io)
    if refusal is not None:
        formats = listed(integer_io_formats())
        raise RefusedError(
            Fault(
                what=f"A {format} file in {scheme} has no {options.io} inputs and outputs.",
                at=f"format {format}, io",
                got=f"{options.io}: {refusal}",
                expected=f"float32; int8 or uint8 in scheme {IO_SCHEME} of {formats}",
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
                expected=listed(methods) if methods else f"no method: {scheme} has one way",
                fix="leave the method out: the first that suits the network is taken",
            )
        )
    absent = missing(module.PACKAGES, extra=module.EXTRA)
    if absent:
        raise MissingPackageError(absent)


def _check_opset(format: str, opset: int | None) -> None:
    known = opset_range(format)
    if opset is None or (known is not None and known[0] <= opset <= known[1]):
        return
    ranges = {name: opset_range(name) for name in format_names()}
    allowed = [f"{r[0]} to {r[1]}, format {name}" for name, r in ranges.items() if r is not None]
    raise RecipeError(
        Fault(
            what="This file cannot have operators of that version.",
            at="opset",
            got=f"{opset}, format {format}",
            expected=listed(allowed),
            fix="leave opset out, or take one that the runtime's release notes name",
        )
    )
