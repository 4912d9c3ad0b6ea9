"""The tool that compares quantizers: what it chooses, and what it says falls short."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

TOOLS = Path(__file__).parents[3] / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    import quantization_matrix

    return quantization_matrix


def row(method: str | None, sqnr_db: float, top1: float, ratio: float, **more: Any) -> Any:
    scheme = "fp32" if method is None else "int8"
    told = {"network": "vit", "format": "onnx", "scheme": scheme, "method": method}
    return told | {"sqnr_db": sqnr_db, "top1": top1, "ratio": ratio, "size_bytes": 100} | more


FP32 = row(None, 130.0, 1.0, 1.0)


def test_the_fastest_that_keeps_fidelity_and_pays_is_chosen(tool: ModuleType) -> None:
    faithful, fast = row("linear", 38.0, 1.0, 0.7), row("percentile", 31.0, 0.995, 0.6)
    broken, slow = row("min-max", 11.0, 0.83, 0.5), row("mse", 45.0, 1.0, 1.2)
    plain = row("plain", 35.0, 1.0, 0.4)
    assert tool.chosen([FP32, plain, faithful, fast, broken, slow]) is fast
    as_fast = row("linear", 38.0, 1.0, 0.61)
    assert tool.chosen([FP32, fast, as_fast]) is as_fast
    assert tool.chosen([FP32, plain, broken, slow]) is FP32
    assert tool.best([FP32, plain, faithful, slow, broken]) is slow


def test_what_falls_short_is_told(tool: ModuleType) -> None:
    plain = row("plain", 40.0, 1.0, 0.4)
    rows = [FP32, plain, row("linear", 33.0, 1.0, 0.9), {**row("mse", 0, 0, 0), "error": "boom"}]
    del rows[3]["sqnr_db"]
    told = "\n".join(tool.shortcomings(rows, (37.0, 2.0)))
    for words in (
        "mse failed: boom",
        "less faithful than the plain call, 40.0 dB",
        "slower than the plain call, which takes 0.40",
        "33.0 dB, and the peer's like network had 37.0",
        "the peer's like network took 0.50",
    ):
        assert words in told
    assert "does not pay, 1.30" in "\n".join(
        tool.shortcomings([FP32, row("linear", 33.0, 1.0, 1.3)], (None, None))
    )
    untimed = [{k: v for k, v in each.items() if k != "ratio"} for each in rows[:3]]
    assert "slower" not in "\n".join(tool.shortcomings(untimed, (37.0, 2.0)))
    assert any("| not timed |" in line for line in tool.table(untimed))
    # A file as large as fp32's has next to nothing in int8.
    hollow = row("dynamic", 60.0, 1.0, 0.9, scheme="int8-dynamic")
    assert tool.chosen([FP32, hollow]) is FP32
    assert tool.best([FP32, hollow]) is None
    lines = list(tool.table([FP32, row("linear", 38.0, 1.0, 0.6)]))
    assert any("int8 linear: 38.0 / 100.0 / 1.00 / 0.60" in line for line in lines)
    assert any("| linear: 38.0 / 100.0 / 1.00 / 0.60 | - |" in line for line in lines)


def test_every_network_of_the_tool_gives_classes_of_what_is_drawn(tool: ModuleType) -> None:
    assert tool.PEERS.keys() == set(tool.FORMATS_HERE)
    for name, kind in tool.KINDS.items():
        torch.manual_seed(0)
        inputs, labels = kind.draw(2, torch.Generator().manual_seed(0))
        with torch.no_grad():
            outputs = tool.call(kind.make().eval(), inputs)
        logits = next(iter(outputs.values()))
        assert logits.shape[0] == len(labels) == 2, name
        assert logits.shape[2:] == labels.shape[1:], name
    assert "quantization_zoo" in sys.modules
