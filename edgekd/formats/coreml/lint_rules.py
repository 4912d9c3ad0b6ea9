"""What the Neural Engine leaves to the CPU or the GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from edgekd.artifacts.graph import Graph
from edgekd.artifacts.target import Target
from edgekd.formats.lint import LintFinding

NEURAL_ENGINE = {
    "lstm": "https://github.com/apple/coremltools/issues/1780 (answer of a maintainer)",
    "gru": "https://github.com/apple/coremltools/issues/1780 (answer of a maintainer)",
    "rnn": "https://github.com/apple/coremltools/issues/1780 (answer of a maintainer)",
    "while_loop": "https://github.com/apple/coremltools/issues/2208 (seen by its author)",
    "gather": "https://huggingface.co/SingularityUS/atc-whisperkit small/TextDecoder"
    ".mlcomputeplan.json (MLComputePlan: only the CPU)",
    "gather_along_axis": "https://github.com/roboflow/rf-detr/pull/1495 (MLComputePlan, M3 Pro)",
    "topk": "https://github.com/roboflow/rf-detr/pull/1495 (MLComputePlan, M3 Pro)",
}
"""Operators that the Neural Engine leaves to the CPU, with a source: Apple documents none."""

FIXES = {
    "gather": "nothing where it is an embedding: it copies a few rows at the start",
    "gather_along_axis": "put it at the end, or compute it in the app",
    "topk": "put it at the end, or compute it in the app",
}


def lint(graph: Graph, target: Target, scheme: str) -> Iterator[LintFinding]:  # noqa: ARG001
    """On an NPU, operators that it does not compute."""
    if target.accelerator != "npu":
        return
    single = [
        (kind, count)
        for kind, count in graph.kinds.items()
        if kind.operator != "cast" and "float32" in kind.gives
    ]
    if single:
        names = Counter(kind.operator for kind, _ in single)
        yield LintFinding(
            "refused",
            ", ".join(sorted(names)),
            sum(count for _, count in single),
            "The Neural Engine computes in float16, and these operators are in float32: they run "
            "on the CPU or the GPU",
            "https://github.com/hollance/neural-engine docs/16-bit.md",
            "choose fp16 or int8 for this target",
        )
    for operator, source in NEURAL_ENGINE.items():
        count = graph.operators.get(operator, 0)
        if count:
            yield LintFinding(
                "falls-back",
                operator,
                count,
                f"{operator} is not computed by the Neural Engine: it runs on the CPU, and what "
                "is around it waits for the switch",
                source,
                FIXES.get(operator, "use convolutions over time in its place"),
            )
