"""The networks of `quantization_matrix.py`: sizes and architectures that ship, trained briefly.

Each network is trained for some hundred steps on synthetic classes, so that its batch-norm
statistics and logits are not trivial. A sample is a mixture of the templates of two classes, with
noise and a gain of 0.5 to 1.5: ranges differ between samples, and some samples lie near a decision
boundary.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.architectures import (
    BertLayer,
    ConvNextBlock,
    Excite,
    Features,
    Inverted,
    PreNorm,
    Shortcut,
    TemporalBlock,
    UNet,
    conv_norm,
)
from tests.support.models import TRAPS

CLASSES = 10
BATCH = 32


def mobilenet_v2() -> nn.Module:
    act = nn.ReLU6
    shapes = ((16, 24, 1), (24, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 96, 1))
    units = [Inverted(*shape, act) for shape in (*shapes, (96, 128, 2))]
    ends = (conv_norm(3, 16, 3, 2, then=act), conv_norm(128, 320, 1, then=act))
    return _classifier(ends[0], *units, ends[1], width=320)


def mobilenet_v3() -> nn.Module:
    swish = nn.Hardswish
    shapes = ((16, 24, 2, nn.ReLU), (24, 24, 1, nn.ReLU), (24, 40, 2, swish), (40, 40, 1, swish),
              (40, 48, 1, swish), (48, 96, 2, swish), (96, 96, 1, swish))  # fmt: skip
    units = [
        Inverted(ins, outs, stride, act, Excite(4 * ins, nn.ReLU, nn.Hardsigmoid))
        for ins, outs, stride, act in shapes
    ]
    ends = (conv_norm(3, 16, 3, 2, then=swish), conv_norm(96, 288, 1, then=swish))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(288, 512), swish())
    return Features(ends[0], *units, ends[1], head=nn.Sequential(*head, nn.Linear(512, CLASSES)))


def resnet() -> nn.Module:
    def block(ins: int, outs: int, stride: int) -> nn.Module:
        body = (conv_norm(ins, outs, 3, stride), conv_norm(outs, outs, 3, then=None))
        return Shortcut(ins, outs, stride, *body)

    widths = ((32, 32, 1), (32, 64, 2), (64, 128, 2), (128, 256, 2))
    blocks = [
        unit for ins, outs, s in widths for unit in (block(ins, outs, s), block(outs, outs, 1))
    ]
    return _classifier(conv_norm(3, 32, 3), *blocks, width=256)


class ConvNext(nn.Module):
    """Two stages of blocks."""

    def __init__(self) -> None:
        super().__init__()
        first = (nn.Conv2d(3, 96, 4, 4), ConvNextBlock(96), ConvNextBlock(96))
        second = (nn.Conv2d(96, 192, 2, 2), *(ConvNextBlock(192) for _ in range(4)))
        self.features = nn.Sequential(*first, *second)
        self.norm, self.head = nn.LayerNorm(192), nn.Linear(192, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.norm(self.features(image).mean([-2, -1])))


class ViT(nn.Module):
    """A vision transformer with patches of 4 x 4 pixels and a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 192, 4, stride=4)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, 192))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 65, 192))
        self.blocks = nn.Sequential(*(PreNorm(192, 6) for _ in range(6)))
        self.norm, self.head = nn.LayerNorm(192), nn.Linear(192, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patch_embed(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(image), -1, -1), patches], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def ds_cnn() -> nn.Module:
    """Keyword spotting (Zhang, Suda, Lai, Chandra 2017, arXiv:1711.07128)."""
    first = nn.Sequential(
        nn.Conv2d(1, 64, (10, 4), 2, (4, 1), bias=False), nn.BatchNorm2d(64), nn.ReLU()
    )
    units = [unit for _ in range(4) for unit in (conv_norm(64, 64, 3, 1, 64), conv_norm(64, 64, 1))]
    return _classifier(first, *units, width=64)


def dilated() -> nn.Module:
    """Depthwise convolutions with a dilation that doubles with every layer."""

    def unit(dilation: int) -> list[nn.Module]:
        deep = nn.Conv2d(64, 64, 3, 1, dilation, dilation, 64, bias=False)
        return [deep, nn.BatchNorm2d(64), nn.ReLU(), conv_norm(64, 64, 1)]

    units = [layer for dilation in (1, 2, 4, 8) for layer in unit(dilation)]
    return _classifier(conv_norm(3, 64, 3, 2), *units, width=64)


class Tcn(nn.Module):
    """Dilated convolutions over time."""

    def __init__(self) -> None:
        super().__init__()
        blocks = (TemporalBlock(9, 48, 1), TemporalBlock(48, 48, 2), TemporalBlock(48, 64, 4))
        self.network, self.linear = nn.Sequential(*blocks), nn.Linear(64, CLASSES)

    def forward(self, signal: Tensor) -> Tensor:
        return self.linear(self.network(signal)[:, :, -1])


class Recurrent(nn.Module):
    """A recurrent layer and its last state."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cells, self.head = kind(9, 96, batch_first=True), nn.Linear(96, CLASSES)

    def forward(self, steps: Tensor) -> Tensor:
        return self.head(self.cells(steps)[0][:, -1])


class MiniLM(nn.Module):
    """Token ids and six layers of an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(2000, 192), nn.Embedding(32, 192)
        self.norm, self.layer = (
            nn.LayerNorm(192),
            nn.ModuleList(BertLayer(192, 6) for _ in range(6)),
        )
        self.classifier = nn.Linear(192, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.words(ids) + self.positions(torch.arange(ids.shape[1])))
        for layer in self.layer:
            x = layer(x)
        return self.classifier(x.mean(1))


class TwoInputs(nn.Module):
    """An image and a vector as inputs; classes and a box as outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Sequential(conv_norm(1, 16, 3, 2), conv_norm(16, 32, 3, 2))
        self.numbers, self.act = nn.Linear(6, 32), nn.PReLU(32)
        self.join, self.head, self.box = nn.Linear(64, 64), nn.Linear(64, CLASSES), nn.Linear(64, 4)

    def forward(self, image: Tensor, numbers: Tensor) -> dict[str, Tensor]:
        both = torch.cat([self.eye(image).mean((2, 3)), self.act(self.numbers(numbers))], 1)
        hidden = F.relu(self.join(both))
        return {"logits": self.head(hidden), "box": self.box(hidden)}


def _classifier(*layers: nn.Module, width: int) -> nn.Module:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))
    return Features(*layers, head=head)


Drawn = tuple[dict[str, Tensor], Tensor]
"""Inputs and labels."""


def _mixed(shapes: dict[str, tuple[int, ...]], classes: int = CLASSES) -> Callable[..., Drawn]:
    """Draws inputs in float32: mixtures of templates, which are smooth for images."""

    def draw(count: int, generator: torch.Generator) -> Drawn:
        labels = torch.randint(0, classes, (count,), generator=generator)
        others = torch.randint(0, classes, (count,), generator=generator)
        share, gain = (torch.rand(count, generator=generator) for _ in range(2))
        inputs = {}
        for name, shape in shapes.items():
            templates = _templates(classes, shape)
            per_sample = (count, *[1] * len(shape))
            weight = (0.6 + 0.4 * share).view(per_sample)
            mixed = weight * templates[labels] + (1 - weight) * templates[others]
            noise = 0.3 * torch.randn(count, *shape, generator=generator)
            inputs[name] = (0.5 + gain.view(per_sample)) * (mixed + noise)
        return inputs, labels

    return draw


def _templates(classes: int, shape: tuple[int, ...]) -> Tensor:
    fixed = torch.Generator().manual_seed(11)
    if len(shape) == 3:
        small = torch.randn(
            classes, shape[0], *[max(2, n // 4) for n in shape[1:]], generator=fixed
        )
        return F.interpolate(small, shape[1:], mode="bilinear")
    return torch.randn(classes, *shape, generator=fixed)


def _segments(count: int, generator: torch.Generator) -> Drawn:
    """Draws images with one of two classes for each pixel."""
    field = torch.randn(count, 1, 8, 8, generator=generator)
    field = F.interpolate(field, (32, 32), mode="bilinear")
    colours = torch.tensor([1.0, -0.5, 0.7]).view(1, 3, 1, 1)
    gain = 0.5 + torch.rand(count, 1, 1, 1, generator=generator)
    image = field * colours + 0.3 * torch.randn(count, 3, 32, 32, generator=generator)
    return {"image": gain * image}, (field[:, 0] > 0).long()


def _tokens(size: int, length: int, classes: int) -> Callable[..., Drawn]:
    """Draws token ids, each class from a distribution of its own."""

    def draw(count: int, generator: torch.Generator) -> Drawn:
        fixed = torch.Generator().manual_seed(11)
        frequencies = (2.0 * torch.randn(classes, size, generator=fixed)).softmax(1)
        labels = torch.randint(0, classes, (count,), generator=generator)
        ids = torch.multinomial(frequencies[labels], length, replacement=True, generator=generator)
        return {"ids": ids}, labels

    return draw


@dataclass(frozen=True)
class ZooNetwork:
    """A network, its synthetic data, and the similar network in the table of reference figures.

    Attributes:
        steps: training steps.
    """

    make: Callable[[], nn.Module]
    draw: Callable[[int, torch.Generator], Drawn]
    steps: int = 200
    like: str | None = None


IMAGE, TIME = {"image": (3, 32, 32)}, {"signal": (9, 64)}

NETWORKS: dict[str, ZooNetwork] = {
    "mobilenet-v2": ZooNetwork(mobilenet_v2, _mixed(IMAGE), 200, "mbv2"),
    "mobilenet-v3": ZooNetwork(mobilenet_v3, _mixed(IMAGE), 200, "mbv3s"),
    "resnet": ZooNetwork(resnet, _mixed(IMAGE), 60, "resnet18"),
    "convnext": ZooNetwork(ConvNext, _mixed(IMAGE), 100, "convnext"),
    "vit": ZooNetwork(ViT, _mixed(IMAGE), 100, "vit"),
    "u-net": ZooNetwork(lambda: UNet(32), _segments, 60, "unet_ct"),
    "ds-cnn": ZooNetwork(ds_cnn, _mixed({"spectrum": (1, 49, 10)}), 300, "dscnn"),
    "dilated": ZooNetwork(dilated, _mixed(IMAGE), 200, "dwdil"),
    "tcn": ZooNetwork(Tcn, _mixed(TIME), 300, "tcn"),
    "gru": ZooNetwork(lambda: Recurrent(nn.GRU), _mixed({"steps": (32, 9)}), 300, "gru"),
    "lstm": ZooNetwork(lambda: Recurrent(nn.LSTM), _mixed({"steps": (32, 9)}), 300, "lstm"),
    "minilm": ZooNetwork(MiniLM, _tokens(2000, 32, CLASSES), 150, "minilm"),
    "two-input": ZooNetwork(
        TwoInputs, _mixed({"image": (1, 16, 16), "numbers": (6,)}), 300, "twoin"
    ),
}
"""The networks by name. LiteRT unrolls the recurrent ones, which takes long."""


def _trap(name: str) -> ZooNetwork:
    trap = TRAPS[name]
    inputs = trap.draw(1, torch.Generator().manual_seed(0))
    if name == "attention":
        draw = _tokens(20, 7, 5)
    else:
        draw = _mixed({key: tuple(tensor.shape[1:]) for key, tensor in inputs.items()}, 5)
    return ZooNetwork(trap.make, draw, 200)


NETWORKS |= {f"trap-{name}": _trap(name) for name in TRAPS}


def trained(name: str, weights: Path) -> nn.Module:
    """The network `name` in eval mode; it is trained once, its weights are kept in `weights`."""
    from safetensors.torch import load_file, save_file

    network = NETWORKS[name]
    torch.manual_seed(zlib.crc32(name.encode()))
    module = network.make()
    path = weights / f"{name}.safetensors"
    if path.exists():
        module.load_state_dict(load_file(path))
        return module.eval()
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.Adam(module.parameters(), 2e-3 if network.steps > 100 else 1e-3)
    module.train()
    for _ in range(network.steps):
        inputs, labels = network.draw(BATCH, generator)
        loss = F.cross_entropy(logits_of(module, inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()
    weights.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, path)
    return module


def logits_of(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The logits of a module, which may have one input without a name or several with."""
    outputs = module(**inputs) if len(inputs) > 1 else module(*inputs.values())
    return outputs["logits"] if isinstance(outputs, dict) else outputs


def accuracy(name: str, module: nn.Module) -> float:
    """The share of new samples, or pixels, that the network classifies correctly (0-1)."""
    inputs, labels = NETWORKS[name].draw(512, torch.Generator().manual_seed(4))
    with torch.no_grad():
        logits = logits_of(module, inputs)
    return float((logits.argmax(1) == labels).float().mean())
