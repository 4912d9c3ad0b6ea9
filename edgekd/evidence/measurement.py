"""The latency of an artifact on a device: every sample, and the figures derived from them."""

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
"""The largest ratio of the median of the last third to that of the first third in a steady
measurement. On a busy machine without throttling the ratio stayed within 1.04."""

LEAST_GAIN = 0.01
"""The smallest difference of medians that is claimed. The medians of a file and its own copy,
interleaved on a busy host, differed by at most 0.5 %."""

LEAST_OF_P99 = 500
"""The fewest samples for a p99: with fewer, five samples decide it."""


@dataclass(frozen=True)
class Ratio:
    """The median latency of a candidate over its parent's, timed interleaved, with its interval."""

    parent: str
    value: float
    low: float
    high: float

    @property
    def claim(self) -> str:
        """The claim: "faster", "slower", or "none" if the difference may be under 1 %."""
        if self.high < 1 - LEAST_GAIN:
            return "faster"
        return "slower" if self.low > 1 + LEAST_GAIN else "none"


@dataclass(frozen=True)
class Measurement:
    """The latency of an artifact on a device.

    Attributes:
        samples_ns: the latency of every inference after warm-up, in order, by process.
        summaries: by process, what a tool reports that keeps no samples (`samples_ns` is empty).
        warm_up_count: number of warm-up inferences, over all processes.
        init_ms: the time to load the artifact, in a process that loads nothing else.
        first_ms: the first inference in that process.
        start_ms: the time from the start of that process to its first line, to 10 ms; None if the
            system does not report it.
        import_ms: the time to import numpy and the runtime; None if unknown.
        protocol: how much was measured: "thorough", "quick" or "own".
        doubts: reasons why the device was not at its speed: throttling, a lost connection.
        notes: other remarks: a busy machine, a warm-up that did not settle.
        peak_memory_bytes: the peak memory of a process that loads only this artifact, including the
            interpreter and the runtime; None if the system does not report it.
        threads: the number of threads that the runtime used.
        evidence: where the artifact ran.
        device: facts about the device, before and after.
        ratio: against the artifact that this one was derived from, on this device; None for the
            parent itself.
        unpruned_ratio: against the unpruned network's artifact of the same scheme; None without
            pruning, and for the unpruned artifact itself.
        confidence: the confidence of the percentiles' intervals.
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
        """The number of inferences after warm-up, whether or not each latency was kept."""
        return sum(map(len, self.samples_ns)) + sum(each.count for each in self.summaries)

    @property
    def process_count(self) -> int:
        """The number of fresh processes that were timed."""
        return len(self.samples_ns) or len(self.summaries)

    @cached_property
    def samples_ms(self) -> list[float]:
        """All samples of all processes, in order, in ms."""
        return [sample / 1e6 for process in self.samples_ns for sample in process]

    def percentile_ms(self, frac: float, *, sustained: bool = False) -> Percentile:
        """The percentile `frac` (0-1) in ms; if `sustained`, of the last third of each process."""
        if self.summaries:
            return summarized_percentile(self.summaries, frac, confidence=self.confidence)
        if not sustained:
            return percentile(self.samples_ms, frac, confidence=self.confidence)
        late = [sample / 1e6 for process in self.samples_ns for sample in _last_third(process)]
        return percentile(late, frac, confidence=self.confidence)

    def process_percentiles_ms(self, frac: float, *, sustained: bool = False) -> list[float]:
        """The percentile `frac` (0-1) of each process, in ms."""
        if self.summaries:
            return [summarized_percentile([each], frac).value for each in self.summaries]
        parts = [_last_third(part) if sustained else part for part in self.samples_ns]
        return [percentile(part, frac).value / 1e6 for part in parts]

    @cached_property
    def drift(self) -> float:
        """The median over processes of the last third's median over the first third's.

        Heat slows down every process, so other load during one process does not count as drift.
        """
        ratios = []
        for process in self.samples_ns:
            third = len(process) // 3
            if third:
                ratios.append(median(process[-third:]) / median(process[:third]))
        return median(ratios) if ratios else 1.0

    @property
    def steady(self) -> bool | None:
        """Whether the latency did not rise during the measurement.

        None if unknown: no samples were kept, or the protocol is quick, which ends before the
        device heats up, so that a drift only shows other load.
        """
        return None if self.quick or self.summaries else self.drift <= STEADY_RATIO

    @property
    def flags(self) -> tuple[str, ...]:
        """The reasons to judge the sustained latency, which never passes: `doubts` and a drift."""
        drift = f"the last third took {self.drift:.2f} times the time of the first third"
        return (*self.doubts, *([drift] if self.steady is False else []))

    @property
    def quick(self) -> bool:
        """Whether it was measured by the quick protocol."""
        return self.protocol == "quick"

    def _repr_html_(self) -> str:
        facts: dict[str, object] = {}
        for frac in (0.5, 0.9):
            figure = self.percentile_ms(frac)
            interval = f"({figure.low:.4f} to {figure.high:.4f})"
            facts[f"p{round(100 * frac)}, ms"] = f"{figure.value:.4f} {interval}"
        facts |= {"load, ms": self.init_ms, "first, ms": self.first_ms}
        facts |= {"peak memory, bytes": self.peak_memory_bytes, "evidence": self.evidence}
        facts["time relative to the parent"] = self.ratio.value if self.ratio else None
        title = f"{len(self.samples_ms):,} inferences on {self.threads} thread(s)"
        return card(f"{title}, not steady" if self.steady is False else title, facts)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that also has derived figures, which `from_json` ignores."""
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
        """Minimum, maximum, mean and standard deviation of all samples."""
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
        """The measurement in a document from `to_json`."""
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
