"""The tool that compares quantizers: what it chooses, and which shortcomings it reports."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from edgekd.network.network import call

TOOLS = Path(__file__).parents[3] / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    import _quantization_table

    return _quantization_table


def row(method: str | None, sqnr_db: float, top1: float, ratio: float, **more: Any) -> Any:
    scheme = "fp32" if method is None else "int8"
    cell = {"network": "vit", "format": "onnx", "scheme": scheme, "method": method}
    return cell | {"sqnr_db": sqnr_db, "top1": top1, "ratio": ratio, "size_bytes": 100} | more


FP32 = row(None, 130.0, 1.0, 1.0)


def test_the_fastest_faithful_file_that_pays_off_is_chosen(tool: ModuleType) -> None:
    faithful, fast = row("linear", 38.0, 1.0, 0.7), row("percentile", 31.0, 0.995, 0.6)
    broken, slow = row("min-max", 11.0, 0.83, 0.5), row("mse", 45.0, 1.0, 1.2)
    plain = row("plain", 35.0, 1.0, 0.4)
    assert tool.chosen([FP32, plain, faithful, fast, broken, slow]) is fast
    as_fast = row("linear", 38.0, 1.0, 0.61)
    assert tool.chosen([FP32, fast, as_fast]) is as_fast
    assert tool.chosen([FP32, plain, broken, slow]) is FP32
    assert tool.best([FP32, plain, faithful, slow, broken]) is slow


def test_shortcomings_are_reported(tool: ModuleType) -> None:
    plain = row("plain", 40.0, 1.0, 0.4)
    rows = [FP32, plain, row("linear", 33.0, 1.0, 0.9), {**row("mse", 0, 0, 0), "error": "boom"}]
    del rows[3]["sqnr_db"]
    text = "\n".join(tool.shortcomings(rows, (37.0, 2.0)))
    for part in (
        "mse failed: boom",
        "lower SQNR than the default call, which has 40.0 dB",
        "slower than the default call, which takes 0.40 of fp32's latency",
        "33.0 dB, and the reference network had 37.0",
        "the reference network took 0.50",
    ):
        assert part in text
    assert "does not pay off, it takes 1.30" in "\n".join(
        tool.shortcomings([FP32, row("linear", 33.0, 1.0, 1.3)], (None, None))
    )


def test_files_without_latency_are_not_called_slower(tool: ModuleType) -> None:
    rows = [FP32, row("plain", 40.0, 1.0, 0.4), row("linear", 33.0, 1.0, 0.9)]
    untimed = [{key: value for key, value in row.items() if key != "ratio"} for row in rows]
    assert "slower" not in "\n".join(tool.shortcomings(untimed, (37.0, 2.0)))
    assert any("| not timed |" in line for line in tool.table(untimed))


def test_a_file_as_large_as_fp32_counts_as_not_quantized(tool: ModuleType) -> None:
    large = row("dynamic", 60.0, 1.0, 0.9, scheme="int8-dynamic")
    assert tool.chosen([FP32, large]) is FP32
    assert tool.best([FP32, large]) is None


def test_the_table_shows_sqnr_agreement_size_and_latency(tool: ModuleType) -> None:
    lines = list(tool.table([FP32, row("linear", 38.0, 1.0, 0.6)]))
    assert any("int8 linear: 38.0 / 100.0 / 1.00 / 0.60" in line for line in lines)
    assert any("| linear: 38.0 / 100.0 / 1.00 / 0.60 | - |" in line for line in lines)


def test_every_network_of_the_tool_classifies_the_inputs_that_are_drawn(
    tool: ModuleType,
) -> None:
    import quantization_zoo

    assert tool.REFERENCES.keys() == set(tool.FORMATS_HERE)
    for name, network in quantization_zoo.NETWORKS.items():
        torch.manual_seed(0)
        inputs, labels = network.draw(2, torch.Generator().manual_seed(0))
        with torch.no_grad():
            outputs = call(network.make().eval(), inputs)
        logits = next(iter(outputs.values()))
        assert logits.shape[0] == len(labels) == 2, name
        assert logits.shape[2:] == labels.shape[1:], name
