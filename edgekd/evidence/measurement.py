"""How long an artifact takes on a device: every sample, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from statistics import fmean, median
from typing import Any

import numpy as np

from edgekd.artifacts.target import Evidence
from edgekd.evidence.percentile import Percentile, percentile
from edgekd.evidence.summarized_latencies import SummarizedLatencies, summarized_percentile
from edgekd.system.html import card

STEADY_RATIO = 1.05
"""How far the median of the last third may lie over that of the first third of a steady
measurement. On an un-throttled but busy machine the figure stayed within 1.04."""

LEAST_GAIN = 0.01
"""No smaller difference of medians is claimed: those of a file and its own copy, interleaved on a
busy host, differed by 0.5 % at most. On a shared host nothing smaller can be told."""

LEAST_OF_P99 = 500
"""Samples without which a p99 is the luck of five of them: none is told."""


@dataclass(frozen=True)
class Ratio:
    """The median time of a candidate over that of its parent, interleaved, with its interval."""

    parent: str
    value: float
    low: float
    high: float

    @property
    def claim(self) -> str:
        """What is claimed of it: "faster", "slower", or "none" where it may be under 1 %."""
        if self.high < 1 - LEAST_GAIN:
            return "faster"
        return "slower" if self.low > 1 + LEAST_GAIN else "none"


@dataclass(frozen=True)
class Measurement:
    """How long an artifact takes on a device.

    Attributes:
        samples_ns: every steady-state inference, in the order taken, by process.
        summaries: by process, what a tool reports that keeps no samples (`samples_ns` is empty).
        warm_up_count: inferences before them, over all processes.
        init_ms: loading the artifact, in a process that holds it alone.
        first_ms: the first inference there.
        start_ms: from the start of that process to its first line, to a hundredth of a second;
            `import_ms`: numpy and the runtime. None where the system does not tell.
        protocol: how much was measured: "thorough", "quick", or "own".
        doubts: why it is not of the device at its speed: throttling, a connection that was lost.
        notes: what else there is to know of it: a busy machine, a warm-up that did not settle.
        peak_memory_bytes: of a process that holds only this artifact, interpreter and runtime
            included; None where the system does not tell.
        threads: what the runtime computed with.
        evidence: where it ran.
        device: facts of the device before and after.
        ratio: against the artifact this one was derived from, on this device; None for that one.
        unpruned_ratio: against the artifact of the same scheme of the unpruned network; None where
            nothing was pruned, and for that one.
        confidence: of the percentiles' intervals.
    """

    samples_ns: tuple[tuple[int, ...], ...]
    warm_up_count: int
    init_ms: float
    first_ms: float
    peak_memory_bytes: int | None
    threads: int
    evidence: Evidence
    device: Mapping[str, Any] = field(default_factory=dict)
    ratio: Ratio | None = None
    unpruned_ratio: Ratio | None = None
    confidence: float = 0.95
    start_ms: float | None = None
    import_ms: float | None = None
    protocol: str = "own"
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    summaries: tuple[SummarizedLatencies, ...] = ()

    @property
    def sample_count(self) -> int:
        """Steady-state inferences, kept or told of."""
        return sum(map(len, self.samples_ns)) + sum(each.count for each in self.summaries)

    @property
    def process_count(self) -> int:
        """Fresh processes that were timed."""
        return len(self.samples_ns) or len(self.summaries)

    @cached_property
    def samples_ms(self) -> list[float]:
        """All samples of all processes, in the order taken, in ms."""
        return [sample / 1e6 for process in self.samples_ns for sample in process]

    def percentile_ms(self, frac: float, *, sustained: bool = False) -> Percentile:
        """The percentile `frac` (0-1) in ms; `sustained`: of the last third of each process."""
        if self.summaries:
            return summarized_percentile(self.summaries, frac, confidence=self.confidence)
        if not sustained:
            return percentile(self.samples_ms, frac, confidence=self.confidence)
        late = [sample / 1e6 for process in self.samples_ns for sample in _last_third(process)]
        return percentile(late, frac, confidence=self.confidence)

    def process_percentiles_ms(self, frac: float, *, sustained: bool = False) -> list[float]:
        """The percentile `frac` (0-1) of each process alone, in ms."""
        if self.summaries:
            return [summarized_percentile([each], frac).value for each in self.summaries]
        parts = [_last_third(part) if sustained else part for part in self.samples_ns]
        return [percentile(part, frac).value / 1e6 for part in parts]

    @cached_property
    def drift(self) -> float:
        """Median of a process's last third over that of its first third; of all, the median.

        Heat slows every process; what else ran beside one of them is not taken for it.
        """
        ratios = []
        for process in self.samples_ns:
            third = len(process) // 3
            if third:
                ratios.append(median(process[-third:]) / median(process[:third]))
        return median(ratios) if ratios else 1.0

    @property
    def steady(self) -> bool | None:
        """Whether it did not get slower while it was measured.

        None where that cannot be told: a quick one is over before anything warms up, and a drift
        in it is what else ran beside it; or no sample was kept.
        """
        return None if self.quick or self.summaries else self.drift <= STEADY_RATIO

    @property
    def flags(self) -> tuple[str, ...]:
        """Why what is sustained is judged, and never passes: `doubts`, and a drift."""
        drift = f"the last third took {self.drift:.2f} times the time of the first third"
        return (*self.doubts, *([drift] if self.steady is False else []))

    @property
    def quick(self) -> bool:
        """Whether it is a first impression."""
        return self.protocol == "quick"

    def _repr_html_(self) -> str:
        facts: dict[str, object] = {}
        for frac in (0.5, 0.9):
            found = self.percentile_ms(frac)
            told = f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})"
            facts[f"p{round(100 * frac)}, ms"] = told
        facts |= {"load, ms": self.init_ms, "first, ms": self.first_ms}
        facts |= {"peak memory, bytes": self.peak_memory_bytes, "evidence": self.evidence}
        facts["time, of the first"] = self.ratio.value if self.ratio else None
        title = f"{len(self.samples_ms):,} inferences on {self.threads} thread(s)"
        return card(f"{title}, not steady" if self.steady is False else title, facts)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the percentiles spelled out; `from_json` ignores those."""
        fracs = (0.5, 0.9, 0.99) if self.sample_count >= LEAST_OF_P99 else (0.5, 0.9)
        figures = {f"p{round(100 * f)}_ms": _interval(self.percentile_ms(f)) for f in fracs}
        return {
            "p99_ms": None,
            **{key: value["value"] for key, value in figures.items()},
            "p95_ms": _finite(self.percentile_ms(0.95).value),
            **self._moments(),
            "intervals": {key: [value["low"], value["high"]] for key, value in figures.items()},
            "sustained_p50_ms": _finite(self.percentile_ms(0.5, sustained=True).value),
            "sustained_p90_ms": _finite(self.percentile_ms(0.9, sustained=True).value),
            "sample_count": self.sample_count,
            "process_count": self.process_count,
            "protocol": self.protocol,
            "steady": self.steady,
            "drift": self.drift,
            "doubts": list(self.doubts),
            "notes": list(self.notes),
            "warm_up_count": self.warm_up_count,
            "start_ms": self.start_ms,
            "import_ms": self.import_ms,
            "init_ms": self.init_ms,
            "first_ms": self.first_ms,
            "peak_memory_bytes": self.peak_memory_bytes,
            "threads": self.threads,
            "evidence": self.evidence,
            "device": dict(self.device),
            "ratio": asdict(self.ratio) if self.ratio else None,
            "claim": self.ratio.claim if self.ratio else None,
            "unpruned_ratio": asdict(self.unpruned_ratio) if self.unpruned_ratio else None,
            "confidence": self.confidence,
            "samples_ns": [list(process) for process in self.samples_ns],
            "told": [asdict(process) for process in self.summaries],
        }

    def _moments(self) -> dict[str, float | None]:
        """Least, most, mean and spread of all samples."""
        if self.summaries:
            figures = [dict(each.figures) for each in self.summaries]
            means = [
                (each.mean_ms, each.count) for each in self.summaries if each.mean_ms is not None
            ]
            return {
                "min_ms": min((each[0.0] for each in figures if 0.0 in each), default=None),
                "max_ms": max((each[1.0] for each in figures if 1.0 in each), default=None),
                "mean_ms": sum(ms * n for ms, n in means) / sum(n for _, n in means)
                if means
                else None,
                "std_ms": None,
            }
        samples = self.samples_ms
        return {
            "min_ms": min(samples),
            "max_ms": max(samples),
            "mean_ms": fmean(samples),
            "std_ms": float(np.std(samples)),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Measurement:
        """The measurement that `to_json` wrote."""
        unpruned = document["unpruned_ratio"]
        return cls(
            samples_ns=tuple(tuple(process) for process in document["samples_ns"]),
            ratio=Ratio(**document["ratio"]) if document["ratio"] else None,
            summaries=tuple(
                SummarizedLatencies(**{**each, "figures": tuple(map(tuple, each["figures"]))})
                for each in document["told"]
            ),
            doubts=tuple(document["doubts"]),
            notes=tuple(document["notes"]),
            unpruned_ratio=Ratio(**unpruned) if unpruned else None,
            **{
                key: document[key]
                for key in (
                    "warm_up_count",
                    "start_ms",
                    "import_ms",
                    "protocol",
                    "init_ms",
                    "first_ms",
                    "peak_memory_bytes",
                    "threads",
                    "evidence",
                    "device",
                    "confidence",
                )
            },
        )


def _last_third(samples: tuple[int, ...]) -> tuple[int, ...]:
    return samples[len(samples) - max(1, len(samples) // 3) :]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _interval(figure: Percentile) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in vars(figure).items()}
