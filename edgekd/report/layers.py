"""The quantization error of each layer, for the files that the run analysed."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from edgekd.report import charts
from edgekd.report.html import figure, table
from edgekd.report.run_data import RunData, shown

NOISIEST = 12
"""The number of layers shown per file; all are in its sensitivity.json."""


def layers(run: RunData) -> Iterator[str]:
    """The noisiest layers of each file with their ranges, saturation and outlier channels."""
    if not run.layers:
        return
    yield "<h2>Quantization error per layer</h2>"
    head = ["layer", "class", "SQNR, dB", "from", "to", "saturated, %", "outlier channels"]
    for name, layers in run.layers.items():
        known = [layer for layer in layers if layer["sqnr_db"] is not None]
        if not known:
            continue
        worst = sorted(known, key=lambda layer: layer["sqnr_db"])[:NOISIEST]
        rows = [
            [layer["module"], layer["kind"], f"{layer['sqnr_db']:.1f}", f"{layer['low']:.3g}",
             f"{layer['high']:.3g}", shown(100 * (layer["saturated_frac"] or 0.0), ".2f"),
             ", ".join(f"{i} (x{ratio:.0f})" for i, ratio in layer["outliers"].items())]
            for layer in worst
        ]  # fmt: skip
        bars = [{"layer": layer["module"], "SQNR, dB": layer["sqnr_db"]} for layer in worst]
        alt = f"{name}: the noisiest layers; a shorter bar is noisier, the noisiest is {rows[0][0]}"
        plot = figure(charts.bars(bars, "SQNR, dB", "layer"), alt, table(head, rows, "  nnnnw"))
        yield f"<h3>{escape(name)}</h3>{plot}"
    yield f"<p><small>The {NOISIEST} noisiest layers of each file. The SQNR includes the noise of "
    yield "a layer's inputs. All layers: sensitivity/TARGET-CANDIDATE/sensitivity.json.</small></p>"
