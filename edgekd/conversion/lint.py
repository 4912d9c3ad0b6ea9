"""Finds what in a saved file will not run fast on its target, before it runs.

The rules of a runtime lie in the package of its format.
"""

from __future__ import annotations

from edgekd.artifacts.graph import Graph
from edgekd.artifacts.target import Target
from edgekd.formats.capabilities import member
from edgekd.formats.lint import LintFinding, unrolled_layers


def lint(graph: Graph, target: Target, scheme: str) -> list[LintFinding]:
    """What in `graph`, saved in precision `scheme`, will not run well on `target`."""
    rules = member(graph.format, "lint", None)
    findings = [*unrolled_layers(graph)]
    return [*findings, *rules(graph, target, scheme)] if rules else findings
