"""The table of `quantization_matrix.py`: which file ships, and where it falls short.

A row holds what was measured of one file: network, format, scheme, method ("plain" is the default
call of the library), sqnr_db, top1, size_bytes, ratio (its latency as a share of fp32's), error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quantization_zoo import NETWORKS

FORMATS_HERE = ("onnx", "openvino", "litert", "coreml")
MIN_SQNR_DB, MIN_TOP1_FRAC = 30.0, 0.99
EQUAL_RATIO = 1.03
"""Latencies and sizes that differ by no more count as equal."""
MAX_SIZE_FRAC = 0.9
"""A file larger than this share of float32's size has hardly any int8."""

REFERENCES: Mapping[str, Mapping[str, tuple[float | None, float | None]]] = {
    "onnx": {
        "mbv2": (33.0, 1.43), "mbv3s": (30.0, 0.74), "resnet18": (41.4, 3.10),
        "convnext": (39.4, 1.55), "vit": (37.2, 1.45), "unet_ct": (30.0, 1.82),
        "dscnn": (37.1, 1.04), "tcn": (41.1, 2.37), "gru": (41.5, 0.97), "lstm": (52.9, 1.36),
        "minilm": (38.6, 1.61), "dwdil": (36.9, 0.95), "twoin": (37.8, 0.92),
    },
    "openvino": {
        "mbv2": (32.8, 1.73), "mbv3s": (31.9, 1.49), "resnet18": (48.1, 3.52),
        "convnext": (45.5, 1.68), "vit": (41.1, 2.28), "unet_ct": (32.6, 2.92),
        "dscnn": (40.5, 1.24), "tcn": (44.7, 1.79), "gru": (57.8, 0.97), "lstm": (51.8, 0.96),
        "minilm": (45.7, 2.58), "dwdil": (41.1, 1.50), "twoin": (40.4, 1.59),
    },
    "litert": {
        "mbv2": (32.2, 1.68), "mbv3s": (30.2, 0.81), "resnet18": (41.4, 3.46),
        "convnext": (49.1, 2.93), "vit": (37.6, 2.30), "unet_ct": (32.5, 3.82),
        "dscnn": (37.1, 1.23), "tcn": (40.4, 3.13), "gru": (54.8, 1.82), "lstm": (55.0, 2.13),
        "minilm": (38.7, 2.69), "dwdil": (36.5, 1.97), "twoin": (None, 2.72),
    },
    "coreml": {
        "mbv2": (46.4, None), "mbv3s": (45.0, None), "resnet18": (52.9, None),
        "convnext": (54.9, None), "vit": (46.8, None), "unet_ct": (45.3, None),
        "dscnn": (44.6, None), "tcn": (49.8, None), "lstm": (65.1, None),
        "minilm": (51.2, None), "dwdil": (43.4, None),
    },
}  # fmt: skip
"""By format and reference network, SQNR in dB and speedup over float32 in the same runtime."""


Row = dict[str, Any]


def faithful_enough(row: Row) -> bool:
    """Whether the file reproduces the network as well as a file that ships must."""
    return row.get("sqnr_db", 0.0) >= MIN_SQNR_DB and row.get("top1", 0.0) >= MIN_TOP1_FRAC


def ours(rows: Sequence[Row]) -> list[Row]:
    """The rows of our methods that have some int8, of the rows of one network in one format."""
    largest = MAX_SIZE_FRAC * rows[0].get("size_bytes", 0)
    return [
        row
        for row in rows[1:]
        if row["method"] != "plain"
        and (row["scheme"] == "int8" or row.get("size_bytes", largest) < largest)
    ]


def chosen(rows: Sequence[Row]) -> Row:
    """The row that ships, of the rows of one network in one format."""
    fp32 = rows[0]
    rivals = [row for row in ours(rows) if faithful_enough(row)]
    if fp32["format"] == "coreml":
        return _least(rivals, "size_bytes") or fp32
    if "ratio" not in fp32:
        return max(rivals, key=lambda row: row["sqnr_db"], default=fp32)
    return _least([row for row in rivals if row.get("ratio", 9.9) <= 1.0], "ratio") or fp32


def _least(rows: Sequence[Row], figure: str) -> Row | None:
    """The row with the highest SQNR among those whose `figure` equals the least, within noise."""
    least = min((row[figure] for row in rows), default=0.0)
    equal = [row for row in rows if row[figure] <= EQUAL_RATIO * least]
    return max(equal, key=lambda row: row["sqnr_db"], default=None)


def best(rows: Sequence[Row], scheme: str | None = None) -> Row | None:
    """The row of ours with the highest SQNR, in a scheme or in all."""
    rivals = [row for row in ours(rows) if "sqnr_db" in row and scheme in (None, row["scheme"])]
    return max(rivals, key=lambda row: row["sqnr_db"], default=None)


def row_text(row: Row | None, fp32: Row) -> str:
    """SQNR, agreement, size and latency of a row as text."""
    if row is None:
        return "-"
    if "sqnr_db" not in row:
        return f"failed ({row.get('error', '')[:40]})"
    text = f"{row['sqnr_db']:.1f} / {100 * row['top1']:.1f} / "
    text += f"{row['size_bytes'] / fp32['size_bytes']:.2f} / "
    return text + (f"{row['ratio']:.2f}" if "ratio" in row else "-")


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The measured rows as Markdown tables, and where they fall short."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["format"], row["network"]), []).append(row)
    short: list[str] = []
    for format in FORMATS_HERE:
        by_network = {name: group for (key, name), group in groups.items() if key == format}
        if not by_network:
            continue
        yield (
            f"\n{format}: SQNR in dB / top-1 agreement in % / size / latency, "
            "the last two as shares of fp32's\n"
        )
        heads = ("network", "default call", "our int8", "our int8-dynamic", "ships")
        yield f"| {' | '.join(heads)} | reference, dB / latency |"
        yield "|---|---|---|---|---|---|"
        for name, group in by_network.items():
            reference = REFERENCES[format].get(NETWORKS[name].like or "", (None, None))
            yield network_line(name, group, reference)
            short += [f"{format} {name}: {text}" for text in shortcomings(group, reference)]
    yield "\nwhat falls short:" if short else "\nnothing falls short"
    yield from (f"  {text}" for text in short)


def network_line(
    name: str, rows: Sequence[Row], reference: tuple[float | None, float | None]
) -> str:
    """The line of one network in the table of one format."""
    fp32, plain = rows[0], next((row for row in rows if row["method"] == "plain"), None)
    ships = chosen(rows)
    ships_text = f"{ships['scheme']} {ships['method'] or ''}: {row_text(ships, fp32)}"
    if ships is fp32:
        ships_text = "fp32"
    if "ratio" not in fp32 and fp32["format"] != "coreml":
        ships_text = "not timed"
    sqnr_db, speedup = reference
    cells = (
        row_text(plain, fp32),
        f"{static['method']}: {row_text(static, fp32)}" if (static := best(rows, "int8")) else "-",
        row_text(best(rows, "int8-dynamic"), fp32),
        ships_text,
        f"{f'{sqnr_db:.1f}' if sqnr_db else '-'} / {f'{1 / speedup:.2f}' if speedup else '-'}",
    )
    return f"| {name} | {' | '.join(cells)} |"


def shortcomings(
    rows: Sequence[Row], reference: tuple[float | None, float | None]
) -> Iterator[str]:
    """Sentences on where ours misses a criterion, the default call or the reference."""
    fp32, ships, nearest = rows[0], chosen(rows), best(rows)
    timed = "ratio" in fp32
    plain = next((row for row in rows if row["method"] == "plain"), None)
    for row in rows:
        if "error" in row and row["method"] != "plain":
            yield f"{row['scheme']} {row['method'] or ''} failed: {row['error'][:160]}"
    if ships is fp32:
        faithful = [row for row in rows[1:] if row["method"] != "plain" and faithful_enough(row)]
        if nearest is None:
            yield "fp32 ships: there is no int8 file"
        elif not faithful:
            yield (
                f"fp32 ships: the int8 file with the highest SQNR has {nearest['sqnr_db']:.1f} dB "
                f"and {100 * nearest['top1']:.1f} %"
            )
        elif timed:
            fastest = min(row.get("ratio", 9.9) for row in faithful)
            yield f"fp32 ships: int8 does not pay off, it takes {fastest:.2f} of fp32's latency"
    if plain and "sqnr_db" in plain and faithful_enough(plain):
        if nearest is None or nearest["sqnr_db"] < plain["sqnr_db"] - 0.5:
            yield f"lower SQNR than the default call, which has {plain['sqnr_db']:.1f} dB"
        ratio = plain.get("ratio", 1.0)
        if timed and ratio < 1 and ships.get("ratio", 1.0) > ratio + 0.03:
            yield f"slower than the default call, which takes {ratio:.2f} of fp32's latency"
    sqnr_db, speedup = reference
    compared = ships if timed else nearest
    if sqnr_db and compared not in (None, fp32) and compared["sqnr_db"] < sqnr_db - 1.0:
        yield f"{compared['sqnr_db']:.1f} dB, and the reference network had {sqnr_db:.1f}"
    if timed and speedup and speedup > 1 and ships.get("ratio", 1.0) > 1.05 / speedup:
        yield (
            f"{ships.get('ratio', 1.0):.2f} of fp32's latency, and the reference network took "
            f"{1 / speedup:.2f}"
        )
