"""The terms that a report uses, explained at its end; column heads link to them."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from edgekd.report.run_data import RunData

TERMS = {
    "candidate": "One file that might ship for a target: a network in one scheme (precision), by "
    "one quantization method, such as int8.percentile.",
    "outcome": "How a candidate ended. Only passed can ship: the file agrees with its network, "
    "meets the acceptance criteria and keeps the budget.",
    "budget": "The limits of a target. A latency limit is judged by the confidence interval of the "
    "percentile, not by the point estimate.",
    "pays off": "Faster or smaller on the target, measured and beyond the noise, than the "
    "candidate it was derived from.",
    "agreement": "How closely a file, run in its own runtime, reproduces its network; at most 1.",
    "SQNR": "Signal-to-quantization-noise ratio in dB: "
    "10 log10(sum reference\u00b2 / sum error\u00b2). Higher is closer to the network.",
    "percentile": "p90 is the latency that 90 % of the inferences do not exceed.",
    "evidence": "Where a figure comes from: device (the target), host (this machine, in place of "
    "the target), emulated (an emulated core) or reference (edgekd's evaluator of Core ML files). "
    "Only device decides a latency budget.",
    "multiply-accumulates": "The multiply-accumulate operations of one inference.",
    "saturated": "The share of values that lie outside the range of the quantized type and are "
    "clipped to its ends.",
}

HEADS = {
    "candidate": "candidate",
    "outcome": "outcome",
    "SQNR, dB": "SQNR",
    "agreement": "agreement",
    "p50, ms": "percentile",
    "p90, ms": "percentile",
    "p99, ms": "percentile",
    "saturated, %": "saturated",
}
"""The column heads that link to a term."""


def linked(head: str) -> str:
    """A column head as HTML, with a link if it is a term."""
    term = HEADS.get(head)
    return escape(head) if term is None else f'<a href="#{anchor(term)}">{escape(head)}</a>'


def anchor(term: str) -> str:
    """The id of a term's explanation on the page."""
    return "term-" + term.lower().replace(" ", "-")


def terms(run: RunData) -> Iterator[str]:  # noqa: ARG001  every section takes the run
    """The explanation of every term."""
    yield '<h2>Terms</h2><dl class="terms">'
    for term, meaning in TERMS.items():
        yield f'<dt id="{anchor(term)}">{escape(term)}</dt><dd>{escape(meaning)}</dd>'
    yield "</dl>"
