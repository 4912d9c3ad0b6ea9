"""What quantization did to each layer of the files whose layers were looked at."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from edgekd.report.html import table
from edgekd.report.told import Told, shown

NOISIEST = 12
"""Layers that are shown of a file; all are in its sensitivity.json."""


def layers(run: Told) -> Iterator[str]:
    """The noisiest layers of each file, with their ranges, saturation and outlier channels."""
    if not run.layers:
        return
    yield "<h2>What quantization did to each layer</h2>"
    head = ["layer", "class", "SQNR dB", "from", "to", "cut off, %", "channels that stand out"]
    for name, found in run.layers.items():
        known = [each for each in found if each["sqnr_db"] is not None]
        rows = [
            [each["module"], each["kind"], f"{each['sqnr_db']:.1f}", f"{each['low']:.3g}",
             f"{each['high']:.3g}", shown(100 * (each["saturated_frac"] or 0.0), ".2f"),
             ", ".join(f"{i} (x{ratio:.0f})" for i, ratio in each["outliers"].items())]
            for each in sorted(known, key=lambda each: each["sqnr_db"])[:NOISIEST]
        ]  # fmt: skip
        yield f"<h3>{escape(name)}</h3>{table(head, rows, '  nnnnw')}"
    yield f"<p><small>The {NOISIEST} noisiest of each file, with the noise that their inputs "
    yield "brought. All are in sensitivity/TARGET-CANDIDATE/sensitivity.json.</small></p>"
