"""Well-known architectures, as in their papers, a few channels wide."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.models import Trap

Act = type[nn.Module]


def conv_norm(
    ins: int, outs: int, kernel: int, stride: int = 1, groups: int = 1, then: Act | None = nn.ReLU
) -> nn.Sequential:
    """A convolution without bias, its batch norm and an optional activation."""
    conv = nn.Conv2d(ins, outs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outs), *([then()] if then else []))


class Features(nn.Module):
    """Features of an image, and a head; by default global pooling and a linear layer."""

    def __init__(self, *features: nn.Module, width: int = 0, head: nn.Module | None = None) -> None:
        super().__init__()
        last = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)) if width else ()
        self.features, self.head = nn.Sequential(*features), head or nn.Sequential(*last)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image))


class Shortcut(nn.Module):
    """A body plus a shortcut, a 1x1 convolution if the widths differ."""

    def __init__(self, ins: int, outs: int, stride: int, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        wider = ins != outs or stride != 1
        self.downsample = conv_norm(ins, outs, 1, stride, then=None) if wider else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.downsample(x))


def resnet() -> nn.Module:
    """Basic blocks with 1x1 downsampling (He, Zhang, Ren, Sun 2015, arXiv:1512.03385)."""

    def block(ins: int, outs: int, stride: int = 1) -> nn.Module:
        body = (conv_norm(ins, outs, 3, stride), conv_norm(outs, outs, 3, then=None))
        return Shortcut(ins, outs, stride, *body)

    layer1 = nn.Sequential(block(16, 16), block(16, 16), block(16, 16))
    layer2 = nn.Sequential(block(16, 32, 2), block(32, 32))
    return Features(conv_norm(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1), layer1, layer2, width=32)


def resnext() -> nn.Module:
    """Bottlenecks of grouped convolutions (Xie et al. 2016, arXiv:1611.05431)."""

    def block(ins: int, outs: int, stride: int) -> nn.Module:
        half = outs // 2
        body = (conv_norm(ins, half, 1), conv_norm(half, half, 3, stride, groups=4))
        return Shortcut(ins, outs, stride, *body, conv_norm(half, outs, 1, then=None))

    blocks = (block(16, 32, 1), block(32, 32, 1), block(32, 64, 2))
    return Features(conv_norm(3, 16, 3, 2), *blocks, width=64)


class Excite(nn.Module):
    """Squeeze-and-excite (Hu et al., arXiv:1709.01507)."""

    def __init__(self, width: int, activation: Act, gate: Act) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)
        self.activation, self.gate = activation(), gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.activation(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class Inverted(nn.Module):
    """Inverted residual: expand, depthwise convolution, project without activation."""

    def __init__(self, ins: int, outs: int, stride: int, then: Act, *middle: nn.Module) -> None:
        super().__init__()
        wide, self.same = 4 * ins, stride == 1 and ins == outs
        deep = conv_norm(wide, wide, 3, stride, wide, then)
        last = conv_norm(wide, outs, 1, then=None)
        self.body = nn.Sequential(conv_norm(ins, wide, 1, then=then), deep, *middle, last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.same else self.body(x)


def mobilenet_v2() -> nn.Module:
    """Inverted residuals and linear bottlenecks (Sandler et al. 2018, arXiv:1801.04381)."""
    act = nn.ReLU6
    units = (Inverted(8, 8, 1, act), Inverted(8, 16, 2, act), Inverted(16, 16, 1, act))
    ends = (conv_norm(3, 8, 3, 2, then=act), conv_norm(16, 32, 1, then=act))
    return Features(ends[0], *units, ends[1], width=32)


def mobilenet_v3() -> nn.Module:
    """Hard-swish and squeeze-and-excite (Howard et al. 2019, arXiv:1905.02244)."""
    act, gates = nn.Hardswish, [Excite(width, nn.ReLU, nn.Hardsigmoid) for width in (32, 64)]
    units = (Inverted(8, 16, 2, nn.ReLU, gates[0]), Inverted(16, 16, 1, act, gates[1]))
    last = (nn.Linear(32, 64), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(64, 5))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *last)
    ends = (conv_norm(3, 8, 3, 2, then=act), conv_norm(16, 32, 1, then=act))
    return Features(ends[0], *units, ends[1], head=head)


def efficientnet() -> nn.Module:
    """MBConv with SiLU (Tan, Le 2019, arXiv:1905.11946)."""
    act, gates = nn.SiLU, [Excite(width, nn.SiLU, nn.Sigmoid) for width in (32, 32, 64)]
    shapes = ((8, 8, 1), (8, 16, 2), (16, 16, 1))
    units = [Inverted(*shape, act, gate) for shape, gate in zip(shapes, gates, strict=True)]
    ends = (conv_norm(3, 8, 3, 2, then=act), conv_norm(16, 32, 1, then=act))
    return Features(ends[0], *units, ends[1], width=32)


class DenseLayer(nn.Module):
    """Norm, activation and convolution, twice; the result is concatenated to the input."""

    def __init__(self, ins: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(ins), nn.Conv2d(ins, 16, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(16), nn.Conv2d(16, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())], 1)


def densenet() -> nn.Module:
    """Every layer reads all earlier ones (Huang et al. 2016, arXiv:1608.06993)."""
    between = (nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 1, bias=False), nn.AvgPool2d(2))
    first = (conv_norm(3, 16, 3, 2), DenseLayer(16, 8), DenseLayer(24, 8), *between)
    second = (DenseLayer(16, 8), DenseLayer(24, 8), nn.BatchNorm2d(32), nn.ReLU())
    return Features(*first, *second, width=32)


class ShuffleUnit(nn.Module):
    """Half the channels pass through, at stride 2 both halves are computed; then a shuffle."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        half, self.halves = outs // 2, stride == 1
        deep = conv_norm(half, half, 3, stride, half, then=None)
        first = conv_norm(ins // 2 if self.halves else ins, half, 1)
        self.right = nn.Sequential(first, deep, conv_norm(half, half, 1))
        left = (conv_norm(ins, ins, 3, stride, ins, then=None), conv_norm(ins, half, 1))
        self.left = nn.Sequential(*(() if self.halves else left))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.halves else (x, x)
        both = torch.cat([self.left(left), self.right(right)], 1)
        batch, channels, *space = both.shape
        shuffled = both.view(batch, 2, channels // 2, *space).transpose(1, 2)
        return shuffled.reshape(batch, channels, *space)


def shufflenet_v2() -> nn.Module:
    """Channel split and shuffle (Ma et al. 2018, arXiv:1807.11164)."""
    units = (ShuffleUnit(8, 16, 2), ShuffleUnit(16, 16, 1), ShuffleUnit(16, 16, 1))
    return Features(conv_norm(3, 8, 3, 2), *units, conv_norm(16, 32, 1), width=32)


def vgg() -> nn.Module:
    """3x3 convolutions with batch norm (Simonyan, Zisserman 2014, arXiv:1409.1556)."""
    pool, head = nn.MaxPool2d(2), (nn.Linear(128, 32), nn.ReLU(True), nn.Dropout())
    body = (conv_norm(3, 8, 3), pool, conv_norm(8, 16, 3), pool, conv_norm(16, 32, 3), pool)
    return Features(*body, head=nn.Sequential(nn.Flatten(), *head, nn.Linear(32, 5)))


class ConvNextBlock(nn.Module):
    """A 7x7 depthwise convolution, a norm over channels, an MLP and a layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(width, width, 7, 1, 3, 1, width), nn.LayerNorm(width)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        # The paper starts with 1e-6, which would hide the block.
        self.gamma = nn.Parameter(0.5 + torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.pwconv1(self.norm(self.dwconv(x).permute(0, 2, 3, 1))))
        return x + (self.gamma * self.pwconv2(inner)).permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    """A convolutional network for the 2020s (Liu et al. 2022, arXiv:2201.03545)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 16, 4, 4), ConvNextBlock(16), ConvNextBlock(16))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.norm(self.features(image).mean([-2, -1])))


class UNet(nn.Module):
    """An encoder and a decoder with skip connections (Ronneberger et al. 2015, arXiv:1505.04597).

    Args:
        width: channels at full resolution.
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        half, quarter = 2 * width, 4 * width
        shapes = ((3, width), (width, half), (half, quarter), (quarter, half), (half, width))
        self.down1, self.down2, self.bottom, self.join2, self.join1 = (
            nn.Sequential(conv_norm(ins, outs, 3), conv_norm(outs, outs, 3)) for ins, outs in shapes
        )
        self.up2 = nn.ConvTranspose2d(quarter, half, 2, 2)
        self.up1 = nn.ConvTranspose2d(half, width, 2, 2)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        first = self.down1(image)
        second = self.down2(F.max_pool2d(first, 2))
        up = self.up2(self.bottom(F.max_pool2d(second, 2)))
        up = self.up1(self.join2(torch.cat([second, up], 1)))
        return self.head(self.join1(torch.cat([first, up], 1)))


class TimmAttention(nn.Module):
    """Attention with one layer for queries, keys and values, as timm writes it."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        context = (queries * self.head_dim**-0.5 @ keys.transpose(-2, -1)).softmax(-1) @ values
        return self.proj(context.transpose(1, 2).reshape(batch, tokens, -1))


class PreNorm(nn.Module):
    """Attention and an MLP, each with a norm before it and a residual connection."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), TimmAttention(width, num_heads)
        self.norm2, wide = nn.LayerNorm(width), 2 * width
        self.mlp = nn.Sequential(nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches as tokens and a class token (Dosovitskiy et al. 2020, arXiv:2010.11929)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 32, 8, stride=8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 32))
        self.pos_embed = nn.Parameter(0.5 * torch.randn(1, 17, 32))
        self.blocks = nn.Sequential(PreNorm(32, 4), PreNorm(32, 4))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patch_embed(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(image), -1, -1), patches], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class BertLayer(nn.Module):
    """Self-attention and an MLP, each with a norm after the sum, as transformers writes it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size = heads, width // heads
        self.all_head_size, wide = width, 2 * width
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.intermediate, self.output = nn.Linear(width, wide), nn.Linear(wide, width)
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, 1e-12)
        self.output_norm = nn.LayerNorm(width, 1e-12)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], self.num_attention_heads, self.attention_head_size)
        layers = (self.query, self.key, self.value)
        queries, keys, values = (layer(x).view(shape).transpose(1, 2) for layer in layers)
        scores = queries @ keys.transpose(-1, -2) / self.attention_head_size**0.5
        context = (scores.softmax(-1) @ values).permute(0, 2, 1, 3).contiguous()
        x = self.norm(self.dense(context.view(*x.shape[:-1], self.all_head_size)) + x)
        return self.output_norm(self.output(F.gelu(self.intermediate(x))) + x)


class Bert(nn.Module):
    """Token ids, an encoder, a pooler (Devlin et al. 2018, arXiv:1810.04805)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(20, 32), nn.Embedding(12, 32)
        self.norm, self.layer = nn.LayerNorm(32), nn.ModuleList(BertLayer(32, 4) for _ in range(2))
        self.pooler, self.classifier = nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.positions(positions))
        for layer in self.layer:
            x = layer(x)
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


def espcn() -> nn.Module:
    """Super-resolution by pixel shuffle (Shi et al. 2016, arXiv:1609.05158)."""
    body = (nn.Conv2d(1, 32, 5, padding=2), nn.Tanh(), nn.Conv2d(32, 16, 3, padding=1), nn.Tanh())
    return Features(*body, nn.Conv2d(16, 4, 3, padding=1), nn.PixelShuffle(2))


class TemporalBlock(nn.Module):
    """Two dilated causal convolutions with a residual connection."""

    def __init__(self, ins: int, outs: int, dilation: int) -> None:
        super().__init__()
        self.padding = 2 * dilation
        self.conv1 = nn.Conv1d(ins, outs, 3, padding=self.padding, dilation=dilation)
        self.conv2 = nn.Conv1d(outs, outs, 3, padding=self.padding, dilation=dilation)
        self.downsample = nn.Conv1d(ins, outs, 1) if ins != outs else None

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.conv1(x)[..., : -self.padding])
        inner = F.relu(self.conv2(inner)[..., : -self.padding])
        return F.relu(inner + (x if self.downsample is None else self.downsample(x)))


class Tcn(nn.Module):
    """A temporal convolutional network (Bai, Kolter, Koltun 2018, arXiv:1803.01271)."""

    def __init__(self) -> None:
        super().__init__()
        blocks = (TemporalBlock(2, 16, 1), TemporalBlock(16, 16, 2), TemporalBlock(16, 24, 4))
        self.network, self.linear = nn.Sequential(*blocks), nn.Linear(24, 5)

    def forward(self, signal: Tensor) -> Tensor:
        return self.linear(self.network(signal)[:, :, -1])


class Crnn(nn.Module):
    """Text lines: feature columns in a bidirectional RNN (Shi et al. 2015, arXiv:1507.05717)."""

    def __init__(self) -> None:
        super().__init__()
        pool = nn.MaxPool2d(2)
        self.cnn = nn.Sequential(conv_norm(1, 8, 3), pool, conv_norm(8, 16, 3), pool)
        self.rnn = nn.LSTM(16 * 4, 16, bidirectional=True, batch_first=True)
        self.embedding = nn.Linear(32, 11)

    def forward(self, image: Tensor) -> Tensor:
        return self.embedding(self.rnn(self.cnn(image).flatten(1, 2).transpose(1, 2))[0])


class Ssd(nn.Module):
    """Classes and boxes from two scales (Liu et al. 2015, arXiv:1512.02325)."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Sequential(conv_norm(3, 16, 3, 2), conv_norm(16, 24, 3, 2))
        self.extra = nn.Sequential(conv_norm(24, 16, 1), conv_norm(16, 32, 3, 2))
        self.conf = nn.ModuleList(nn.Conv2d(width, 3 * 4, 3, padding=1) for width in (24, 32))
        self.loc = nn.ModuleList(nn.Conv2d(width, 3 * 4, 3, padding=1) for width in (24, 32))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        near = self.base(image)
        far, outputs = self.extra(near), {}
        for name, layers in (("classes", self.conf), ("boxes", self.loc)):
            maps = (layers[0](near), layers[1](far))
            rows = [x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4) for x in maps]
            outputs[name] = torch.cat(rows, 1)
        return outputs


def _normal(name: str, *shape: int) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    return lambda count, generator: {name: torch.randn(count, *shape, generator=generator)}


SMALL, LARGE = _normal("image", 3, 16, 16), _normal("image", 3, 32, 32)

ARCHITECTURES: dict[str, Trap] = {
    "resnet": Trap(resnet, LARGE),
    "resnext": Trap(resnext, SMALL),
    "mobilenet-v2": Trap(mobilenet_v2, SMALL),
    "mobilenet-v3": Trap(mobilenet_v3, SMALL),
    "efficientnet": Trap(efficientnet, SMALL),
    "densenet": Trap(densenet, SMALL),
    "shufflenet-v2": Trap(shufflenet_v2, SMALL),
    "vgg": Trap(vgg, SMALL),
    "convnext": Trap(ConvNext, LARGE),
    "unet": Trap(UNet, SMALL),
    "vit": Trap(ViT, LARGE),
    "bert": Trap(
        Bert, lambda n, generator: {"ids": torch.randint(0, 20, (n, 12), generator=generator)}
    ),
    "espcn": Trap(espcn, _normal("image", 1, 12, 12)),
    "tcn": Trap(Tcn, _normal("signal", 2, 32)),
    "crnn": Trap(Crnn, _normal("image", 1, 16, 32)),
    "ssd": Trap(Ssd, SMALL),
}
