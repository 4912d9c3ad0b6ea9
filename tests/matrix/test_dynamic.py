"""Free sizes in every format that has them, tried at sizes that no exporter saw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import edgekd
from edgekd.artifacts.signature import DynamicDim
from edgekd.errors import ConversionError
from edgekd.formats import FORMATS
from tests.support.project import assert_five_parts
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter


class Recurrent(nn.Module):
    """torch.export takes its steps for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(6, 8, batch_first=True, bidirectional=True), nn.Linear(16, 4)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(signal)[0].mean(1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 16), nn.Linear(16, 4)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        found, weights = self.layer(self.embed(ids)), mask[..., None].float()
        return {"logits": self.head((found * weights).sum(1) / weights.sum(1)), "tokens": found}


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.first(image).relu().mean((2, 3)))


class Unrolled(nn.Module):
    """Takes any number of steps, and a trace takes those of its example."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(6, 8)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        state = signal.new_zeros(signal.shape[0], 8)
        for step in signal.unbind(1):
            state = self.cell(step, state)
        return state


class Placed(nn.Module):
    """As sentence encoders do, takes as many of its places as there are tokens: of what follows,
    onnxruntime's symbolic inference of shapes is at a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 16), nn.Parameter(torch.randn(40, 16))
        self.key, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids) + self.places[: ids.shape[1]]
        scores = x @ self.key(x).transpose(1, 2) + (ids == 0)[:, None, :] * -1e4
        return self.head((scores.softmax(-1) @ x).mean(1))


def signal() -> dict[str, torch.Tensor]:
    return {"signal": torch.randn(1, 12, 6, generator=torch.Generator().manual_seed(0))}


def words() -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 50, (1, 12), generator=torch.Generator().manual_seed(0))
    return {"ids": ids, "mask": torch.ones(1, 12, dtype=torch.int64)}


def image() -> dict[str, torch.Tensor]:
    return {"image": torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


STEPS = DynamicDim("steps", 4, 64, {"signal": 1})
CASES: dict[str, tuple[Any, Any, tuple[DynamicDim, ...]]] = {
    "recurrent": (Recurrent, signal, (STEPS,)),
    "attention": (Attention, words, (DynamicDim("tokens", 4, 32, {"ids": 1, "mask": 1}),)),
    "batch": (Image, image, (DynamicDim("batch", 1, 8, {"image": 0}),)),
    "height-and-width": (
        Image,
        image,
        (DynamicDim("height", 8, 64, {"image": 2}), DynamicDim("width", 8, 64, {"image": 3})),
    ),
}


def network(make: Any, example: Any, free: tuple[DynamicDim, ...]) -> Any:
    torch.manual_seed(0)
    return edgekd.load_network(make().eval(), example=example(), dynamic=free)


def test_onnx_quantizes_what_it_cannot_infer_the_shapes_of(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    need_modules(*FORMATS["onnx"].PACKAGES)
    tokens = DynamicDim("tokens", 4, 32, {"ids": 1})
    drawn = [{"ids": torch.arange(first, first + 12)[None]} for first in range(0, 32, 4)]
    made = network(Placed, lambda: drawn[0], (tokens,))
    artifact = edgekd.export(made, format="onnx", scheme="int8-dynamic", out=tmp_path)
    assert not list((tmp_path / "here").iterdir()), "nothing of onnxruntime's is left"
    assert artifact.lineage["quantized_weights_frac"] > 0
    assert edgekd.verify(artifact, made, drawn).outcome is edgekd.Outcome.PASSED


@pytest.mark.parametrize("format", ["onnx", "openvino", "coreml"])
@pytest.mark.parametrize("name", CASES)
def test_a_file_takes_sizes_that_no_exporter_saw(tmp_path: Any, name: str, format: str) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    make, example, free = CASES[name]
    made = network(make, example, free)
    # The weights are too few for coremltools to quantize any.
    for scheme in ("fp32", "fp16" if format == "coreml" else "int8"):
        artifact = edgekd.export(
            made, format=format, scheme=scheme, calibration=[example()], out=tmp_path
        )
        assert [each["name"] for each in artifact.lineage["free"]] == [each.name for each in free]
        again = edgekd.load_artifact(artifact.path.parent)
        assert again.signature == made.signature
        assert edgekd.verify(again, made, [example()]).outcome is edgekd.Outcome.PASSED


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_size_that_is_frozen_without_a_word_is_found(tmp_path: Any, format: str) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    made = network(Unrolled, signal, (STEPS,))
    with pytest.raises(ConversionError) as raised:
        edgekd.export(made, format=format, out=tmp_path)
    assert_five_parts(str(raised.value))
    assert "declared dynamic dimension" in str(raised.value)


def test_the_command_line_times_what_it_exported(
    tmp_path: Any, edgekd_cli: Any, project: Any
) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    (project.folder / "gru.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.layer = nn.GRU(6, 8, batch_first=True)\n\n"
        "    def forward(self, signal):\n        return self.layer(signal)[0].mean(1)\n\n\n"
        "def net():\n    return Net()\n"
    )
    base = ("export", f"{project.folder}/gru.py:net", "--out", tmp_path / "out", "--example",
            "signal=1x12x6", "--dynamic", "steps=4..64@signal:1")  # fmt: skip
    refused = edgekd_cli(*base, "--format", "litert")
    assert refused.code == 3
    assert_five_parts(refused.err)
    said = edgekd_cli(*base, "--format", "onnx", "--json")
    assert said.code == 0, said.err
    assert said.json["signature"]["inputs"][0]["shape"] == [1, None, 6]
    timed = edgekd_cli("benchmark", said.json["path"], "--quick", "--json")
    assert timed.code == 0, timed.err
