"""A finding of the linter, and the rules that several formats share.

A rule is a table of what a runtime takes. Each was read in the runtime's own source, or is an
answer of its maintainers, or was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from edgekd.artifacts.graph import Graph
from edgekd.artifacts.target import Target
from edgekd.errors import listed


@dataclass(frozen=True)
class LintFinding:
    """One property of a file that makes it slower on its target than its operators need be.

    Attributes:
        kind: "falls-back" to a slower processor or kernel than the rest, "unrolled", "refused" by
            the accelerator as a whole, or "slow" where it runs.
        operator: the type of the operators, or several types.
        count: the number of operators it is about.
        why: a sentence.
        source: where that is written, or how it was measured.
        fix: what can be done, or that nothing need be.
    """

    kind: Literal["falls-back", "unrolled", "refused", "slow"]
    operator: str
    count: int
    why: str
    source: str
    fix: str


def unrolled_layers(graph: Graph) -> Iterator[LintFinding]:
    """A recurrent layer that the converter unrolled step by step."""
    why = graph.unrolled
    if why is None or graph.roles.gates is None:
        return
    yield LintFinding(
        "unrolled",
        ", ".join(graph.roles.gates),
        graph.count,
        why,
        graph.roles.unrolled_source,
        "take a target of format onnx or openvino, which keep nn.GRU and nn.LSTM whole, or use "
        "fewer steps",
    )


def widened_fp16(
    count: int, target: Target, *, operator: str, otherwise: tuple[str, str] | None = None
) -> Iterator[LintFinding]:
    """Weights in float16 that `target` computes in float32.

    Args:
        count: the number of operators that widen such weights, or that compute on them.
        operator: their type.
        otherwise: why, and the source of it, where the target's profile has no fact `fp16`.
    """
    fact = target.facts.get("fp16")
    if not count or (fact is None and otherwise is None):
        return
    why, source = (f"fp16 is {fact.value}", fact.source) if fact else otherwise or ("", "")
    yield LintFinding(
        "slow", operator, count, why, source, "choose it for size; for time choose fp32 or int8"
    )


DOT_PRODUCTS = ("asimddp", "i8mm")
"""Instructions of Arm cores that multiply and add bytes."""


def without_dot_products(
    graph: Graph, target: Target, operators: tuple[str, ...]
) -> Iterator[LintFinding]:
    """int8 `operators` on an Arm core that has no dot-product instructions by its profile."""
    fact = target.facts.get("int8_instructions")
    if fact is None or target.machine not in ("aarch64", "arm64"):
        return
    if set(DOT_PRODUCTS) & {str(name) for name in fact.value}:
        return
    count = graph.total(operators)
    if count:
        yield LintFinding(
            "slow",
            ", ".join(operators),
            count,
            f"{target.name} has none of {listed(DOT_PRODUCTS)}: int8 takes more instructions than "
            "fp32 there",
            f"{fact.source}; measured, LiteRT 2.3, a depthwise network: 1.30 times the "
            "instructions of fp32 on Cortex-A72, 0.53 times on Cortex-A76, which has asimddp",
            "choose int8 for size; for time measure both",
        )
