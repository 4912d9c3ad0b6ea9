"""What OpenVINO's CPU plugin computes in int8 and in float16."""

from __future__ import annotations

from collections.abc import Iterator

from edgekd.artifacts.graph import CONST, Graph
from edgekd.artifacts.target import Target
from edgekd.formats.lint import LintFinding, widened_fp16, without_dot_products

FLOAT = {
    "GRUSequence": "expect no speed of it: int8 ran at 0.97 times the speed of fp32 (measured)",
    "LSTMSequence": "expect no speed of it: int8 ran at 0.97 times the speed of fp32 (measured)",
    "MVN": "nothing: it is the layer norm, and int8 would cost accuracy",
}
"""Operators of int8 files that the CPU plugin computes in float32, each with what can be done."""

RUNTIME_MODEL = "measured, OpenVINO 2026.4: get_runtime_model() says f32, in all of six networks"


def lint(graph: Graph, target: Target, scheme: str) -> Iterator[LintFinding]:
    """On a CPU, operators that an int8 file leaves in float32, and schemes that do not pay."""
    if target.accelerator != "cpu":
        return
    if scheme == "int8":
        yield from _in_float(graph)
        names = ("Convolution", "GroupConvolution", "MatMul")
        yield from without_dot_products(graph, target, names)
    if scheme == "fp16":
        count = sum(
            count
            for kind, count in graph.kinds.items()
            if kind.operator == "Convert" and kind.takes[:1] == (CONST + "float16",)
        )
        yield from widened_fp16(count, target, operator="Convert")


def _in_float(graph: Graph) -> Iterator[LintFinding]:
    for operator, fix in FLOAT.items():
        count = graph.operators.get(operator, 0)
        why = f"{operator} has no int8 kernel in OpenVINO's CPU plugin: it is computed in float32"
        if count:
            yield LintFinding("falls-back", operator, count, why, RUNTIME_MODEL, fix)
