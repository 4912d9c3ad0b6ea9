"""Known architectures, built as their papers do, a few channels wide."""

from __future__ import annotations

from collections.abc import Callable

import torch
from models import Trap
from torch import Tensor, nn
from torch.nn import functional as F


def conv(ins: int, outs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution and its batch norm."""
    made = nn.Conv2d(ins, outs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(made, nn.BatchNorm2d(outs))


class Classifier(nn.Module):
    """Features, their mean over space, and a linear layer."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image).mean((2, 3)))


class Basic(nn.Module):
    """ResNet's basic block: He et al. 2016, arXiv:1512.03385."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv(ins, outs, stride=stride), conv(outs, outs)
        same = ins == outs and stride == 1
        self.shortcut = nn.Identity() if same else conv(ins, outs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class Bottleneck(nn.Module):
    """ResNeXt's block, its middle grouped: Xie et al. 2017, arXiv:1611.05431."""

    def __init__(self, ins: int, width: int, outs: int, groups: int) -> None:
        super().__init__()
        self.reduce, self.middle = conv(ins, width, 1), conv(width, width, groups=groups)
        self.expand, self.shortcut = conv(width, outs, 1), conv(ins, outs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.middle(F.relu(self.reduce(x))))
        return F.relu(self.expand(y) + self.shortcut(x))


class SqueezeExcite(nn.Module):
    """Hu et al. 2018, arXiv:1709.01507."""

    def __init__(self, width: int, squeezed: int, gate: nn.Module) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * self.gate(self.expand(pooled))


class Inverted(nn.Module):
    """MobileNetV2's block; with `squeeze` MobileNetV3's and EfficientNet's.

    Sandler et al. 2018, arXiv:1801.04381; Howard et al. 2019, arXiv:1905.02244; Tan, Le 2019,
    arXiv:1905.11946.
    """

    def __init__(
        self,
        ins: int,
        outs: int,
        stride: int,
        act: type[nn.Module] = nn.ReLU6,
        gate: nn.Module | None = None,
    ) -> None:
        super().__init__()
        wide = 4 * ins
        parts: list[nn.Module] = [conv(ins, wide, 1), act()]
        parts += [conv(wide, wide, 3, stride, groups=wide), act()]
        parts += [SqueezeExcite(wide, 8, gate)] if gate is not None else []
        self.body = nn.Sequential(*parts, conv(wide, outs, 1))
        self.residual = ins == outs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def inverted(act: type[nn.Module], gate: nn.Module | None = None) -> nn.Module:
    body = nn.Sequential(
        conv(3, 8, stride=2), act(), Inverted(8, 16, 2, act, gate), Inverted(16, 16, 1, act, gate)
    )
    return Classifier(body, 16)


class Dense(nn.Module):
    """DenseNet: Huang et al. 2017, arXiv:1608.06993."""

    def __init__(self, depth: int = 3, growth: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        widths = [16 + growth * number for number in range(depth + 1)]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(ins), nn.ReLU(), nn.Conv2d(ins, growth, 3, padding=1, bias=False)
            )
            for ins in widths[:-1]
        )
        self.norm, self.head = nn.BatchNorm2d(widths[-1]), nn.Linear(widths[-1], 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's unit: Ma et al. 2018, arXiv:1807.11164."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            conv(half, half, 1), nn.ReLU(), conv(half, half, groups=half), conv(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        x = torch.cat([left, F.relu(self.branch(right))], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def vgg() -> nn.Module:
    """VGG with batch norm, flattened: Simonyan, Zisserman 2015, arXiv:1409.1556."""
    parts: list[nn.Module] = []
    for ins, outs in ((3, 16), (16, 32)):
        parts += [conv(ins, outs), nn.ReLU(), conv(outs, outs), nn.ReLU(), nn.MaxPool2d(2)]
    parts += [nn.Flatten(), nn.Linear(32 * 16, 32), nn.ReLU(), nn.Linear(32, 5)]
    return nn.Sequential(*parts)


class ConvNeXtBlock(nn.Module):
    """Liu et al. 2022, arXiv:2201.03545."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.deep = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.wide = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 4 * width)
        self.narrow, self.scale = (
            nn.Linear(4 * width, width),
            nn.Parameter(torch.full((width,), 0.5)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        y = self.scale * self.narrow(F.gelu(self.wide(y)))
        return x + y.permute(0, 3, 1, 2)


class UNet(nn.Module):
    """Ronneberger, Fischer, Brox 2015, arXiv:1505.04597."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = conv(3, 8), conv(8, 16)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.last, self.out = conv(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        fine = F.relu(self.down(image))
        coarse = F.relu(self.deep(F.max_pool2d(fine, 2)))
        return self.out(F.relu(self.last(torch.cat([fine, self.up(coarse)], 1))))


class Attention(nn.Module):
    """Attention as timm writes it: one layer for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, count, _ = x.shape
        qkv = self.qkv(x).reshape(n, count, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        return self.proj(y.transpose(1, 2).reshape(n, count, -1))


class EncoderBlock(nn.Module):
    """A pre-norm transformer's block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.fc1 = nn.LayerNorm(width), nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """Vision transformer: Dosovitskiy et al. 2021, arXiv:2010.11929."""

    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*(EncoderBlock(width, 4) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return self.head(self.norm(self.blocks(x))[:, 0])


class BertLayer(nn.Module):
    """A post-norm layer with queries, keys and values apart, as in BERT.

    Devlin et al. 2019, arXiv:1810.04805; names as in Hugging Face's code.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_attention_heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.dense = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.intermediate, self.output = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.last = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        n, count, _ = x.shape
        parts = [self.query(x), self.key(x), self.value(x)]
        query, key, value = (
            each.view(n, count, self.num_attention_heads, -1).transpose(1, 2) for each in parts
        )
        weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        x = self.norm(x + self.dense((weights @ value).transpose(1, 2).reshape(n, count, -1)))
        return self.last(x + self.output(F.gelu(self.intermediate(x))))


class Bert(nn.Module):
    """A text classifier over token ids."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, width), nn.Parameter(torch.randn(7, width))
        self.layers = nn.ModuleList(BertLayer(width, 4) for _ in range(2))
        self.pooler, self.head = nn.Linear(width, width), nn.Linear(width, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(torch.tanh(self.pooler(x[:, 0])))


class MixerBlock(nn.Module):
    """MLP-Mixer's block: Tolstikhin et al. 2021, arXiv:2105.01601."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(count, 16), nn.GELU(), nn.Linear(16, count))
        self.channels = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """Patches, mixer blocks and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.blocks = nn.Sequential(MixerBlock(16, 32), MixerBlock(16, 32))
        self.head = nn.Linear(32, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.blocks(self.patch(image).flatten(2).transpose(1, 2)).mean(1))


def espcn() -> nn.Module:
    """Super-resolution by pixel shuffle: Shi et al. 2016, arXiv:1609.05158."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2),
        nn.Tanh(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(16, 12, 3, padding=1),
        nn.PixelShuffle(2),
    )


def ds_cnn() -> nn.Module:
    """Keyword spotting with separable convolutions: Zhang et al. 2017, arXiv:1711.07128."""
    parts: list[nn.Module] = [nn.Conv2d(1, 16, (10, 4), 2, (5, 1), bias=False)]
    parts += [nn.BatchNorm2d(16), nn.ReLU()]
    for _ in range(2):
        parts += [conv(16, 16, groups=16), nn.ReLU(), conv(16, 16, 1), nn.ReLU()]
    return Classifier(nn.Sequential(*parts), 16)


class Temporal(nn.Module):
    """A temporal block, dilated and padded on the left: Bai et al. 2018, arXiv:1803.01271."""

    def __init__(self, ins: int, outs: int, dilation: int) -> None:
        super().__init__()
        self.pad = 2 * dilation
        self.first = nn.Conv1d(ins, outs, 3, dilation=dilation)
        self.second = nn.Conv1d(outs, outs, 3, dilation=dilation)
        self.shortcut = nn.Conv1d(ins, outs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(F.pad(x, (self.pad, 0))))
        y = F.relu(self.second(F.pad(y, (self.pad, 0))))
        return F.relu(y + self.shortcut(x))


class Tcn(nn.Module):
    """Temporal blocks, and a linear layer on the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(Temporal(2, 16, 1), Temporal(16, 16, 2))
        self.head = nn.Linear(16, 5)

    def forward(self, signal: Tensor) -> Tensor:
        return self.head(self.body(signal)[:, :, -1])


class Ssd(nn.Module):
    """A detector's two heads on two scales: Liu et al. 2016, arXiv:1512.02325."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(conv(3, 16, stride=2), nn.ReLU(), conv(16, 16), nn.ReLU())
        self.coarse = nn.Sequential(conv(16, 32, stride=2), nn.ReLU())
        self.classes = nn.ModuleList(nn.Conv2d(width, 6, 3, padding=1) for width in (16, 32))
        self.boxes = nn.ModuleList(nn.Conv2d(width, 8, 3, padding=1) for width in (16, 32))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = self.fine(image)
        features = [fine, self.coarse(fine)]
        found = {}
        for name, heads in (("classes", self.classes), ("boxes", self.boxes)):
            parts = [head(x).flatten(2) for head, x in zip(heads, features, strict=True)]
            found[name] = torch.cat(parts, 2)
        return found


def _image(
    make: Callable[[], nn.Module], size: int = 16, channels: int = 3, name: str = "image"
) -> Trap:
    def draw(count: int, dice: torch.Generator) -> dict[str, Tensor]:
        return {name: torch.randn(count, channels, size, size, generator=dice)}

    return Trap(make, draw)


ARCHITECTURES: dict[str, Trap] = {
    "resnet": _image(
        lambda: Classifier(
            nn.Sequential(conv(3, 16), nn.ReLU(), Basic(16, 16, 1), Basic(16, 32, 2)), 32
        )
    ),
    "resnext": _image(
        lambda: Classifier(nn.Sequential(conv(3, 16), nn.ReLU(), Bottleneck(16, 16, 32, 4)), 32)
    ),
    "mobilenet-v2": _image(lambda: inverted(nn.ReLU6)),
    "mobilenet-v3": _image(lambda: inverted(nn.Hardswish, nn.Hardsigmoid())),
    "efficientnet": _image(lambda: inverted(nn.SiLU, nn.Sigmoid())),
    "densenet": _image(Dense, 8),
    "shufflenet-v2": _image(
        lambda: Classifier(nn.Sequential(conv(3, 16), nn.ReLU(), ShuffleUnit(16)), 16)
    ),
    "vgg": _image(vgg, name="input"),
    "convnext": _image(
        lambda: Classifier(nn.Sequential(nn.Conv2d(3, 16, 4, 4), ConvNeXtBlock(16)), 16)
    ),
    "unet": _image(UNet, 8),
    "vit": _image(ViT),
    "bert": Trap(Bert, lambda n, dice: {"ids": torch.randint(0, 20, (n, 7), generator=dice)}),
    "mixer": _image(Mixer),
    "espcn": _image(espcn, 8, name="input"),
    "ds-cnn": _image(ds_cnn, channels=1),
    "tcn": Trap(Tcn, lambda n, dice: {"signal": torch.randn(n, 2, 20, generator=dice)}),
    "ssd": _image(Ssd),
}
