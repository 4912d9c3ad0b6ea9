"""What quantization did to each layer of the files whose layers were looked at."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from edgekd.report import charts
from edgekd.report.html import figure, table
from edgekd.report.run_data import RunData, shown

NOISIEST = 12
"""Layers that are shown of a file; all are in its sensitivity.json."""


def layers(run: RunData) -> Iterator[str]:
    """The noisiest layers of each file, with their ranges, saturation and outlier channels."""
    if not run.layers:
        return
    yield "<h2>What quantization did to each layer</h2>"
    head = ["layer", "class", "SQNR dB", "from", "to", "cut off, %", "channels that stand out"]
    for name, found in run.layers.items():
        known = [each for each in found if each["sqnr_db"] is not None]
        if not known:
            continue
        rows = [
            [each["module"], each["kind"], f"{each['sqnr_db']:.1f}", f"{each['low']:.3g}",
             f"{each['high']:.3g}", shown(100 * (each["saturated_frac"] or 0.0), ".2f"),
             ", ".join(f"{i} (x{ratio:.0f})" for i, ratio in each["outliers"].items())]
            for each in sorted(known, key=lambda each: each["sqnr_db"])[:NOISIEST]
        ]  # fmt: skip
        worst = sorted(known, key=lambda each: each["sqnr_db"])[:NOISIEST]
        bars = [{"layer": each["module"], "SQNR, dB": each["sqnr_db"]} for each in worst]
        alt = f"{name}: the noisiest layers, shorter is noisier; the first is {rows[0][0]}"
        plot = figure(charts.bars(bars, "SQNR, dB", "layer"), alt, table(head, rows, "  nnnnw"))
        yield f"<h3>{escape(name)}</h3>{plot}"
    yield f"<p><small>The {NOISIEST} noisiest of each file, with the noise that their inputs "
    yield "brought. All are in sensitivity/TARGET-CANDIDATE/sensitivity.json.</small></p>"
