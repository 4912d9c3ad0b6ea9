"""Inputs and outputs may be called as operators are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import edgekd
from edgekd.artifacts.signature import DynamicDim
from edgekd.formats import FORMATS
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter


class Words(nn.Module):
    """The mean of words, and of their places, under the names of operators."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 5)
        self.places = nn.Parameter(torch.randn(16, 8))

    def forward(self, slice: Tensor) -> dict[str, Tensor]:
        found = self.words(slice) + self.places[: slice.shape[1]]
        return {"embedding": found.mean(1), "linear": self.head(found).mean(1)}


@pytest.mark.parametrize(
    ("format", "free"),
    [("litert", False), ("onnx", False), ("onnx", True), ("openvino", True), ("coreml", True)],
)
def test_outputs_are_called_as_operators_are(tmp_path: Path, format: str, free: bool) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    torch.manual_seed(0)
    example = {"slice": torch.randint(0, 20, (1, 7), dtype=torch.int32)}
    sizes = [DynamicDim("tokens", 4, 16, {"slice": 1})] if free else []
    network = edgekd.load_network(Words().eval(), example=example, dynamic=sizes)
    artifact = edgekd.export(network, format=format, out=tmp_path)
    assert [spec.name for spec in artifact.signature.outputs] == ["embedding", "linear"]
    assert edgekd.verify(artifact, network, [example]).outcome is edgekd.Outcome.PASSED
