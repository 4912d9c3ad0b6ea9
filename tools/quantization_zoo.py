"""The networks of `quantization_matrix.py`: of the sizes and kinds that ship, trained a little.

Each is taught for some hundred steps on made-up classes, so that its batch-norm statistics and its
logits are not trivial. A sample is a mixture of two classes' templates, with noise and a gain of
0.5 to 1.5: ranges differ from sample to sample, and some samples lie near a border of classes.
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
    Around,
    BertLayer,
    ConvNextBlock,
    Excite,
    Features,
    Inverted,
    PreNorm,
    TemporalBlock,
    conv_norm,
)
from tests.support.models import TRAPS

CLASSES = 10
BATCH = 32


def mobilenet_v2() -> nn.Module:
    act = nn.ReLU6
    shapes = ((16, 24, 1), (24, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 96, 1))
    units = [Inverted(*each, act) for each in (*shapes, (96, 128, 2))]
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
        return Around(ins, outs, stride, *body)

    widths = ((32, 32, 1), (32, 64, 2), (64, 128, 2), (128, 256, 2))
    blocks = [
        each for ins, outs, s in widths for each in (block(ins, outs, s), block(outs, outs, 1))
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
    """Patches of four pixels, and a token for the class."""

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


class UNet(nn.Module):
    """Two steps down, and up by transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        shapes = ((3, 32), (32, 64), (64, 128), (128, 64), (64, 32))
        self.down1, self.down2, self.bottom, self.join2, self.join1 = (
            nn.Sequential(conv_norm(ins, outs, 3), conv_norm(outs, outs, 3)) for ins, outs in shapes
        )
        self.up2, self.up1 = nn.ConvTranspose2d(128, 64, 2, 2), nn.ConvTranspose2d(64, 32, 2, 2)
        self.head = nn.Conv2d(32, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        first = self.down1(image)
        second = self.down2(F.max_pool2d(first, 2))
        up = self.up2(self.bottom(F.max_pool2d(second, 2)))
        up = self.up1(self.join2(torch.cat([second, up], 1)))
        return self.head(self.join1(torch.cat([first, up], 1)))


def ds_cnn() -> nn.Module:
    """Keyword spotting (Zhang, Suda, Lai, Chandra 2017, arXiv:1711.07128)."""
    first = nn.Sequential(
        nn.Conv2d(1, 64, (10, 4), 2, (4, 1), bias=False), nn.BatchNorm2d(64), nn.ReLU()
    )
    units = [each for _ in range(4) for each in (conv_norm(64, 64, 3, 1, 64), conv_norm(64, 64, 1))]
    return _classifier(first, *units, width=64)


def dilated() -> nn.Module:
    """Depthwise convolutions that look further with every layer."""

    def unit(dilation: int) -> list[nn.Module]:
        deep = nn.Conv2d(64, 64, 3, 1, dilation, dilation, 64, bias=False)
        return [deep, nn.BatchNorm2d(64), nn.ReLU(), conv_norm(64, 64, 1)]

    units = [each for dilation in (1, 2, 4, 8) for each in unit(dilation)]
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
    """An image and some numbers; classes and a box."""

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


def _mixed(shapes: dict[str, tuple[int, ...]], classes: int = CLASSES) -> Callable[..., Drawn]:
    """Samples of inputs in float32: mixtures of templates, for images smooth ones."""

    def draw(count: int, generator: torch.Generator) -> Drawn:
        labels = torch.randint(0, classes, (count,), generator=generator)
        others = torch.randint(0, classes, (count,), generator=generator)
        share, gain = (torch.rand(count, generator=generator) for _ in range(2))
        inputs = {}
        for name, shape in shapes.items():
            templates = _templates(classes, shape)
            each = (count, *[1] * len(shape))
            of_first = (0.6 + 0.4 * share).view(each)
            mixed = of_first * templates[labels] + (1 - of_first) * templates[others]
            noise = 0.3 * torch.randn(count, *shape, generator=generator)
            inputs[name] = (0.5 + gain.view(each)) * (mixed + noise)
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
    """Images whose every pixel is of one of two classes."""
    field = torch.randn(count, 1, 8, 8, generator=generator)
    field = F.interpolate(field, (32, 32), mode="bilinear")
    colours = torch.tensor([1.0, -0.5, 0.7]).view(1, 3, 1, 1)
    gain = 0.5 + torch.rand(count, 1, 1, 1, generator=generator)
    image = field * colours + 0.3 * torch.randn(count, 3, 32, 32, generator=generator)
    return {"image": gain * image}, (field[:, 0] > 0).long()


def _tokens(size: int, length: int, classes: int) -> Callable[..., Drawn]:
    """Token ids, of which each class likes some more than others."""

    def draw(count: int, generator: torch.Generator) -> Drawn:
        fixed = torch.Generator().manual_seed(11)
        liking = (2.0 * torch.randn(classes, size, generator=fixed)).softmax(1)
        labels = torch.randint(0, classes, (count,), generator=generator)
        ids = torch.multinomial(liking[labels], length, replacement=True, generator=generator)
        return {"ids": ids}, labels

    return draw


@dataclass(frozen=True)
class Kind:
    """A network, its made-up data, and its name in the table of peers' figures, if it has one."""

    make: Callable[[], nn.Module]
    draw: Callable[[int, torch.Generator], Drawn]
    steps: int = 200
    like: str | None = None


IMAGE, TIME = {"image": (3, 32, 32)}, {"signal": (9, 64)}

KINDS: dict[str, Kind] = {
    "mobilenet-v2": Kind(mobilenet_v2, _mixed(IMAGE), 200, "mbv2"),
    "mobilenet-v3": Kind(mobilenet_v3, _mixed(IMAGE), 200, "mbv3s"),
    "resnet": Kind(resnet, _mixed(IMAGE), 60, "resnet18"),
    "convnext": Kind(ConvNext, _mixed(IMAGE), 100, "convnext"),
    "vit": Kind(ViT, _mixed(IMAGE), 100, "vit"),
    "u-net": Kind(UNet, _segments, 60, "unet_ct"),
    "ds-cnn": Kind(ds_cnn, _mixed({"spectrum": (1, 49, 10)}), 300, "dscnn"),
    "dilated": Kind(dilated, _mixed(IMAGE), 200, "dwdil"),
    "tcn": Kind(Tcn, _mixed(TIME), 300, "tcn"),
    "gru": Kind(lambda: Recurrent(nn.GRU), _mixed({"steps": (32, 9)}), 300, "gru"),
    "lstm": Kind(lambda: Recurrent(nn.LSTM), _mixed({"steps": (32, 9)}), 300, "lstm"),
    "minilm": Kind(MiniLM, _tokens(2000, 32, CLASSES), 150, "minilm"),
    "two-input": Kind(TwoInputs, _mixed({"image": (1, 16, 16), "numbers": (6,)}), 300, "twoin"),
}
"""By name; the recurrent ones last long in LiteRT, which unrolls them."""


def _trap(name: str) -> Kind:
    trap = TRAPS[name]
    inputs = trap.draw(1, torch.Generator().manual_seed(0))
    if name == "attention":
        draw = _tokens(20, 7, 5)
    else:
        draw = _mixed({each: tuple(tensor.shape[1:]) for each, tensor in inputs.items()}, 5)
    return Kind(trap.make, draw, 200)


KINDS |= {f"trap-{name}": _trap(name) for name in TRAPS}


def trained(name: str, weights: Path) -> nn.Module:
    """The network `name` in eval mode, its weights from `weights`, where they are made once."""
    from safetensors.torch import load_file, save_file

    kind = KINDS[name]
    torch.manual_seed(zlib.crc32(name.encode()))
    module = kind.make()
    place = weights / f"{name}.safetensors"
    if place.exists():
        module.load_state_dict(load_file(place))
        return module.eval()
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.Adam(module.parameters(), 2e-3 if kind.steps > 100 else 1e-3)
    module.train()
    for _ in range(kind.steps):
        inputs, labels = kind.draw(BATCH, generator)
        given = module(**inputs) if len(inputs) > 1 else module(*inputs.values())
        logits = given["logits"] if isinstance(given, dict) else given
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()
    weights.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, place)
    return module


def accuracy(name: str, module: nn.Module) -> float:
    """The share of fresh samples, or pixels, that the network gets right (0-1)."""
    inputs, labels = KINDS[name].draw(512, torch.Generator().manual_seed(4))
    with torch.no_grad():
        given = module(**inputs) if len(inputs) > 1 else module(*inputs.values())
    logits = given["logits"] if isinstance(given, dict) else given
    return float((logits.argmax(1) == labels).float().mean())
