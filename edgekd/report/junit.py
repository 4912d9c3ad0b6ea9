"""Verdicts for CI systems: JUnit XML, and a Markdown summary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from edgekd.evidence.candidate import Candidate
from edgekd.evidence.outcome import Outcome


@dataclass(frozen=True)
class Case:
    """One candidate of one target as a test case.

    Attributes:
        detail: the reason for its outcome.
        failed: whether it fails the run; a failure beside a candidate that passed is only reported.
        time_s: the median latency in seconds; None if it was not measured.
    """

    suite: str
    name: str
    outcome: str
    detail: str
    failed: bool
    time_s: float | None


def cases(rows: Sequence[Candidate], required: Mapping[str, bool]) -> list[Case]:
    """One case per candidate; it fails if its target is required and no candidate passed there."""
    passed = {row.target for row in rows if row.outcome is Outcome.PASSED}
    return [
        Case(
            suite=row.target,
            name=row.name,
            outcome=row.outcome.value if row.outcome else "not judged",
            detail=row.detail,
            failed=row.outcome not in (Outcome.PASSED, None)
            and row.target not in passed
            and required.get(row.target, True),
            time_s=row.measurement.percentile_ms(0.5).value / 1e3 if row.measurement else None,
        )
        for row in rows
    ]


# Characters that XML 1.0 does not allow, even escaped.
CONTROL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(name: str, cases: Sequence[Case]) -> str:
    """A JUnit document with one suite per target and one case per candidate.

    Source: https://github.com/testmoapp/junitxml
    """
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f"<testsuites name={quoteattr(name)}>"]
    for suite in dict.fromkeys(case.suite for case in cases):
        ours = [case for case in cases if case.suite == suite]
        failures = sum(case.failed for case in ours)
        skipped = sum(not case.failed and case.outcome != "passed" for case in ours)
        lines.append(
            f'  <testsuite name={quoteattr(suite)} tests="{len(ours)}" failures="{failures}" '
            f'errors="0" skipped="{skipped}">'
        )
        for case in ours:
            time = f' time="{case.time_s:.6f}"' if case.time_s is not None else ""
            head = f"    <testcase classname={quoteattr(suite)} name={quoteattr(case.name)}{time}"
            message = quoteattr(f"{case.outcome}: {case.detail}")
            if case.failed:
                body = f"<failure message={message}>{escape(case.detail)}</failure>"
            elif case.outcome != "passed":
                body = f"<skipped message={message}/>"
            elif case.detail:
                body = f"<system-out>{escape(case.detail)}</system-out>"
            else:
                lines.append(f"{head}/>")
                continue
            lines.append(f"{head}>{body}</testcase>")
        lines.append("  </testsuite>")
    return CONTROL.sub("?", "\n".join([*lines, "</testsuites>", ""]))


def summary(
    title: str, metric: str | None, rows: Sequence[Candidate], ships: Mapping[str, tuple[str, str]]
) -> str:
    """The rows as a Markdown table, followed by the reason for each.

    Args:
        metric: the name of the metric; None if none was measured.
        ships: by target, the candidate that ships and why; an empty name if none does.
    """
    heads = ["target", "scheme", "outcome", metric, "bytes", "p50 ms", "p90 ms", "ships"]
    used = [head is not None and (head != "ships" or bool(ships)) for head in heads]
    lines = [
        f"### {_cell(title)}",
        "",
        _line([_cell(head or "") for head in heads], used),
        _line([*["---"] * 3, *["---:"] * 4, "---"], used),
    ]
    for row in rows:
        metric_value = row.agreement.metric if row.agreement else None
        p50 = row.measurement.percentile_ms(0.5).value if row.measurement else None
        p90 = row.measurement.percentile_ms(0.9).value if row.measurement else None
        cells = [
            _cell(row.target),
            _cell(row.name),
            row.outcome.value if row.outcome else "",
            f"{metric_value:.4f}" if metric_value is not None else "",
            f"{row.artifact.size_bytes:,}" if row.artifact else "",
            f"{p50:.3f}" if p50 is not None else "",
            f"{p90:.3f}" if p90 is not None else "",
            "yes" if ships.get(row.target, ("", ""))[0] == row.name else "",
        ]
        lines.append(_line(cells, used))
    lines.append("")
    lines += [f"- {_cell(target)}: {_cell(why)}" for target, (_, why) in ships.items()]
    lines += [
        f"- {_cell(f'{row.target} {row.name}'.strip())}: {_cell(row.detail)}"
        for row in rows
        if row.detail
    ]
    return "\n".join([*lines, ""])


def _line(cells: Sequence[str], used: Sequence[bool]) -> str:
    kept = (cell for cell, wanted in zip(cells, used, strict=True) if wanted)
    return f"| {' | '.join(kept)} |"


def _cell(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))
