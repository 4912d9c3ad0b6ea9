"""The ratio of two latencies that were measured interleaved, with its confidence interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.devices.job import Report
from edgekd.evidence.measurement import Ratio

BOOTSTRAPS = 400


def latency_ratio(
    reports: Sequence[Report], name: str, baseline: str | None, seed: int
) -> Ratio | None:
    """The ratio of the median latency to that of `baseline`; None if they were not interleaved.

    The interval is a bootstrap over processes and blocks of interleaved pairs. Processes are
    resampled before blocks, since a process affects all its blocks alike.
    Source: Efron, Tibshirani 1993, An Introduction to the Bootstrap, section 13.3 (percentile);
    Davison, Hinkley 1997, Bootstrap Methods and their Application, section 3.8 (nested).
    """
    if baseline is None or any(
        "blocks_ns" not in report.results.get(artifact, {})
        for report in reports
        for artifact in (name, baseline)
    ):
        return None
    processes = [
        np.array([_medians(report.results[artifact]) for artifact in (name, baseline)]).T
        for report in reports
    ]
    generator = np.random.default_rng(seed)
    resampled = sorted(
        _ratio_of_medians(
            [
                processes[number][
                    generator.integers(0, len(processes[number]), len(processes[number]))
                ]
                for number in generator.integers(0, len(processes), len(processes))
            ]
        )
        for _ in range(BOOTSTRAPS)
    )
    tail = round(0.025 * BOOTSTRAPS)
    return Ratio(
        baseline, _ratio_of_medians(processes), low=resampled[tail - 1], high=resampled[-tail]
    )


def _medians(result: Mapping[str, Any]) -> list[float]:
    """The median of each block."""
    return [float(np.median(block)) for block in result["blocks_ns"]]


def _ratio_of_medians(processes: Sequence[NDArray[np.float64]]) -> float:
    pairs = np.concatenate(processes)
    ours, theirs = np.median(pairs, axis=0)
    return float(ours / theirs)
