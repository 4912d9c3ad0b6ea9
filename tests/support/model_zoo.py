"""Small networks, each with one operator or pattern that is difficult for converters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.architectures import Features, conv_norm
from tests.support.models import Trap


class Do(nn.Module):
    """A layer that calls a function without weights."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def on_image(*layers: nn.Module) -> nn.Module:
    """A convolution, layers that keep its 8 channels, their mean, and a linear layer."""
    return Features(nn.Conv2d(3, 8, 3, padding=1), *layers, width=8)


def pooled(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """A convolution, the function, a convolution, so that spatial positions matter."""
    return lambda: Features(nn.Conv2d(3, 8, 3, padding=1), Do(function), nn.Conv2d(8, 4, 3))


def on_vector(*makes: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Layers that keep 16 features, between two linear layers."""
    return lambda: nn.Sequential(nn.Linear(6, 16), *(make() for make in makes), nn.Linear(16, 5))


def dilated() -> nn.Module:
    """Dilated convolutions: full, depthwise, and with a non-square kernel."""
    deep = nn.Conv2d(8, 8, 3, padding=4, dilation=4, groups=8, bias=False)
    odd = nn.Conv2d(8, 12, (3, 1), padding=(2, 0), dilation=(2, 1))
    layers = (nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.ReLU(), deep, nn.BatchNorm2d(8))
    return Features(conv_norm(3, 8, 3), *layers, nn.ReLU(), odd, width=12)


def grouped() -> nn.Module:
    """Grouped convolutions, a channel multiplier of two, and a stride that leaves a remainder."""
    layers = (nn.Conv2d(8, 16, 3, groups=4), nn.BatchNorm2d(16), nn.SiLU())
    twice = nn.Conv2d(16, 32, 5, stride=3, padding=2, groups=16)
    return Features(conv_norm(3, 8, 3), *layers, twice, nn.ReLU6(), width=32)


def transposed() -> nn.Module:
    """Transposed convolutions with overlap and output padding, full and depthwise."""
    up = nn.ConvTranspose2d(8, 12, 3, stride=2, padding=1, output_padding=1, bias=False)
    deep = nn.ConvTranspose2d(12, 12, 4, stride=2, padding=1, groups=12)
    layers = (conv_norm(3, 8, 3, 2), up, nn.BatchNorm2d(12), nn.ReLU(), deep)
    return Features(*layers, nn.ConvTranspose2d(12, 2, 3, padding=2, dilation=2, groups=2))


def transposed_signal() -> nn.Module:
    """Transposed convolutions over time."""
    down = (nn.Conv1d(2, 8, 4, stride=2, padding=1), nn.BatchNorm1d(8), nn.ReLU())
    return nn.Sequential(
        *down, nn.ConvTranspose1d(8, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose1d(8, 2, 3)
    )


def separable_signal() -> nn.Module:
    """Depthwise, dilated and grouped convolutions over time."""
    deep = nn.Conv1d(8, 8, 5, stride=2, padding=4, dilation=2, groups=8, bias=False)
    mixed = (nn.Conv1d(8, 16, 3, groups=4), nn.AvgPool1d(2), nn.MaxPool1d(3, 2, 1))
    return nn.Sequential(
        nn.Conv1d(2, 8, 1), deep, nn.BatchNorm1d(8), nn.ReLU(), *mixed, nn.Flatten(1)
    )


def video() -> nn.Module:
    """Convolutions over time and space."""
    layers = (nn.Conv3d(2, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8), nn.ReLU())
    last = (nn.MaxPool3d(2), nn.Conv3d(8, 8, 3, stride=2, padding=1), nn.AdaptiveAvgPool3d(1))
    return nn.Sequential(*layers, *last, nn.Flatten(), nn.Linear(8, 5))


class Chunks(nn.Module):
    """Features split into equal and unequal parts, gated, and concatenated in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(14, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        first, second, third = self.stem(image).split([3, 5, 8], 1)
        left, right = third.chunk(2, 1)
        gated = F.glu(torch.cat([left, right], 1), 1)
        parts = [second, left * right.sigmoid(), gated[:, :2], first]
        return self.head(torch.cat(parts, 1))


def focus() -> nn.Module:
    """Every second row and column as channels, as the stem of YOLOv5."""
    starts = ((0, 0), (0, 1), (1, 0), (1, 1))
    slices = Do(lambda x: torch.cat([x[..., row::2, column::2] for row, column in starts], 1))
    return Features(slices, nn.Conv2d(12, 4, 3, padding=1))


class Windows(nn.Module):
    """Rolled features partitioned into windows and merged again, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 8, 1), nn.Linear(16, 16), nn.Conv2d(8, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.roll(self.stem(image).permute(0, 2, 3, 1), (-2, -2), (1, 2))
        batch, height, width, channels = x.shape
        windows = x.view(batch, height // 4, 4, width // 4, 4, channels).permute(0, 1, 3, 5, 2, 4)
        mixed = self.mix(windows.reshape(-1, channels, 16)).view(windows.shape)
        mixed = mixed.permute(0, 1, 4, 2, 5, 3)
        back = torch.roll(mixed.reshape(batch, height, width, channels), (2, 2), (1, 2))
        return self.head(back.permute(0, 3, 1, 2))


class Heads(nn.Module):
    """`scaled_dot_product_attention` over tokens given as vectors."""

    def __init__(self, *, causal: bool = False) -> None:
        super().__init__()
        self.causal, self.qkv, self.proj = causal, nn.Linear(16, 48), nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        qkv = self.qkv(tokens).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        context = F.scaled_dot_product_attention(*qkv.unbind(0), is_causal=self.causal)
        return self.proj(context.transpose(1, 2).flatten(2))


class Masked(nn.Module):
    """Token ids with a padding mask: boolean for torch's attention, and for a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm, self.heads = nn.Embedding(20, 16), nn.LayerNorm(16), nn.Linear(16, 5)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.norm(self.words(input_ids))
        layers = (self.query, self.key, self.value)
        query, key, value = (layer(x).unflatten(-1, (4, 4)).transpose(1, 2) for layer in layers)
        mask = attention_mask.bool()[:, None, None, :]
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        weights = attention_mask.float().unsqueeze(-1)
        return self.heads((context.transpose(1, 2).flatten(2) * weights).sum(1) / weights.sum(1))


class Filled(nn.Module):
    """`masked_fill` of scores, an additive mask of the lowest float, and `where`."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, 16), nn.Linear(16, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids)
        scores = x @ x.transpose(1, 2) / 4
        filled = scores.masked_fill(attention_mask[:, None, :] == 0, float("-inf"))
        lowest = (1.0 - attention_mask[:, None, :].float()) * torch.finfo(x.dtype).min
        mixed = (filled.softmax(-1) + (scores + lowest).softmax(-1)) @ x
        return self.head(torch.where(attention_mask[..., None] > 0, mixed, torch.tanh(x)))


class Encoder(nn.Module):
    """`nn.TransformerEncoderLayer` with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, 16), nn.Linear(16, 5)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, activation="gelu", batch_first=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.layer(self.words(input_ids), src_key_padding_mask=attention_mask == 0)
        return self.head(x[:, 0])


class Positions(nn.Module):
    """Positions counted over the tokens that are not padding (as RoBERTa), and a cumulative sum."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(20, 16), nn.Embedding(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, input_ids: Tensor) -> Tensor:
        real = input_ids.ne(0).long()
        x = self.words(input_ids) + self.positions(real.cumsum(1) * real)
        return self.head(x.cumsum(1))


class Cells(nn.Module):
    """A recurrent network: its outputs, or the final state of its last layer."""

    def __init__(self, kind: type[nn.RNNBase], *, state: bool = False, **options: int) -> None:
        super().__init__()
        self.cells, self.state = kind(4, 8, batch_first=True, **options), state
        self.head = nn.Linear(16 if self.cells.bidirectional and not state else 8, 5)

    def forward(self, steps: Tensor) -> Tensor:
        outputs, last = self.cells(steps)
        state = last[0] if isinstance(last, tuple) else last
        return self.head(state[-1] if self.state else outputs)


def rms_norm(x: Tensor) -> Tensor:
    """nn.RMSNorm, as transformers writes it."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Einsum(nn.Module):
    """Attention with `einsum`."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Parameter(torch.randn(16, 4, 4)), nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        query = torch.einsum("btc,chd->bhtd", tokens, self.query)
        key = self.key(tokens).unflatten(-1, (4, 4))
        weights = torch.einsum("bhtd,bshd->bhts", query, key).div(4).softmax(-1)
        return self.head(torch.einsum("bhts,bshd->bthd", weights, key).flatten(2))


class TopK(nn.Module):
    """The largest scores and their indices."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 16)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        values, indices = self.head(features).topk(3, dim=1)
        return {"values": values, "indices": indices}


class Fused(nn.Module):
    """An image, numbers and ids as inputs; a tuple of outputs of different ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.numbers = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(6, 8)
        self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 5)

    def forward(self, image: Tensor, numbers: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        maps = F.relu(self.image(image)) + self.numbers(numbers)[:, :, None, None]
        return self.head(maps.mean((2, 3)) + self.words(ids).sum(1)), maps


class Normalized(nn.Module):
    """Normalized embeddings times normalized class vectors, as in face recognition."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes = nn.Linear(6, 16), nn.Parameter(torch.randn(5, 16))

    def forward(self, features: Tensor) -> Tensor:
        unit = F.normalize(self.body(features), dim=1)
        return 8 * F.linear(unit, F.normalize(self.classes)) + unit.std(1, keepdim=True)


def _normal(name: str, *shape: int) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    return lambda count, generator: {name: torch.randn(count, *shape, generator=generator)}


def _ids(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(0, 20, (count, 12), generator=generator)}


def _padded(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    ids, lengths = _ids(count, generator), torch.randint(4, 13, (count, 1), generator=generator)
    return {**ids, "attention_mask": (torch.arange(12)[None] < lengths).long()}


def _three(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    numbers, ids = _normal("numbers", 6)(count, generator), _ids(count, generator)
    return {**IMAGE(count, generator), **numbers, "ids": ids["input_ids"]}


IMAGE, TOKENS = _normal("image", 3, 16, 16), _normal("tokens", 12, 16)
STEPS, SIGNAL = _normal("steps", 8, 4), _normal("input", 2, 32)
VECTOR, INPUT = _normal("features", 6), _normal("input", 6)  # The input name of nn.Sequential.
RESIZES = {
    "bilinear": {"scale_factor": 2, "mode": "bilinear", "align_corners": False},
    "bilinear-corners": {"size": (31, 24), "mode": "bilinear", "align_corners": True},
    "bilinear-smaller": {"size": (7, 10), "mode": "bilinear", "align_corners": False},
    "nearest": {"scale_factor": 2, "mode": "nearest"},
    "nearest-odd": {"size": (25, 40), "mode": "nearest"},
    "bicubic": {"scale_factor": 2, "mode": "bicubic", "align_corners": False},
}
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "adaptive-even": lambda x: F.adaptive_avg_pool2d(x, 4),
    "adaptive-uneven": lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
    "adaptive-max": lambda x: F.adaptive_max_pool2d(x, (4, 4)),
    "max-pool-ceil": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "max-pool-dilated": lambda x: F.max_pool2d(x, 3, 1, padding=1, dilation=2),
    "avg-pool-edges": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg-pool-padded": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg-pool-ceil": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "reflection": lambda x: F.pad(x, (2, 1, 1, 3), "reflect"),
    "replication": lambda x: F.pad(x, (2, 1, 1, 3), "replicate"),
    "padded-ones": lambda x: F.pad(x, (0, 1, 1, 2), value=1.0),
    "unshuffle": lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 4), 4),
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky": lambda: nn.LeakyReLU(0.1),
    "elu": lambda: nn.ELU(0.7),
    "celu": lambda: nn.CELU(0.7),
    "softplus": lambda: nn.Softplus(2.0),
    "mish": nn.Mish,
    "gelu-tanh": lambda: nn.GELU("tanh"),
    "hard": lambda: nn.Sequential(nn.Hardswish(), nn.Hardsigmoid(), nn.Hardtanh(0.1, 0.9)),
    "prelu-vector": lambda: nn.PReLU(16),
    "log-softmax": lambda: nn.LogSoftmax(1),
    "softsign-logsigmoid": lambda: nn.Sequential(nn.Softsign(), nn.LogSigmoid()),
    "reciprocal": lambda: Do(lambda x: 1 / (x * x + 0.01)),
}


def _resize(options: dict[str, object]) -> Callable[[], nn.Module]:
    return pooled(lambda x: F.interpolate(x, **options))  # type: ignore[arg-type]


def _cells(kind: type[nn.RNNBase], **options: int) -> Trap:
    return Trap(lambda: Cells(kind, **options), STEPS)


def randomized(module: nn.Module) -> nn.Module:
    """The module with its constant parameters randomized, so that an error in them shows.

    These are norms, biases and PReLU, and layer scales that begin near zero.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            if bool((parameter == parameter.flatten()[0]).all()):
                noise = torch.rand_like(parameter)
                near_zero = 0 < parameter.abs().max() < 0.1
                parameter.copy_(0.5 + noise if near_zero else parameter + 0.4 * noise - 0.2)
    return module


DRAWN: dict[str, Trap] = {
    **{f"convolution-{make.__name__}": Trap(make, IMAGE) for make in (dilated, grouped)},
    "convolution-transposed": Trap(transposed, IMAGE),
    "signal-transposed": Trap(transposed_signal, SIGNAL),
    "signal-separable": Trap(separable_signal, SIGNAL),
    "video": Trap(video, _normal("input", 2, 8, 16, 16)),
    "chunks": Trap(Chunks, IMAGE),
    "focus": Trap(focus, IMAGE),
    "windows": Trap(Windows, IMAGE),
    **{f"resize-{name}": Trap(_resize(options), IMAGE) for name, options in RESIZES.items()},
    **{f"pool-{name}": Trap(pooled(function), IMAGE) for name, function in POOLS.items()},
    **{f"then-{name}": Trap(on_vector(make), INPUT) for name, make in ACTIVATIONS.items()},
    "prelu-image": Trap(lambda: on_image(nn.PReLU(8)), IMAGE),
    "prelu-signal": Trap(lambda: nn.Sequential(nn.Conv1d(2, 8, 3), nn.PReLU(8)), SIGNAL),
    "group-norm": Trap(lambda: on_image(nn.GroupNorm(4, 8), nn.SiLU()), IMAGE),
    "instance-norm": Trap(lambda: on_image(nn.InstanceNorm2d(8, affine=True), nn.ReLU()), IMAGE),
    "layer-norm-image": Trap(lambda: on_image(nn.LayerNorm([8, 16, 16]), nn.ReLU()), IMAGE),
    "rms-norm": Trap(on_vector(lambda: nn.RMSNorm(16), lambda: Do(rms_norm)), INPUT),
    "attention-torch": Trap(Heads, TOKENS),
    "attention-causal": Trap(lambda: Heads(causal=True), TOKENS),
    "attention-masked": Trap(Masked, _padded),
    "filled": Trap(Filled, _padded),
    "encoder": Trap(Encoder, _padded),
    "positions": Trap(Positions, _ids),
    "einsum": Trap(Einsum, TOKENS),
    "gru-state": _cells(nn.GRU, state=True),
    "gru-layers": _cells(nn.GRU, num_layers=2),
    "gru-both-ways": _cells(nn.GRU, bidirectional=True),
    "lstm": _cells(nn.LSTM),
    "lstm-state": _cells(nn.LSTM, num_layers=2, state=True),
    "lstm-both-ways": _cells(nn.LSTM, num_layers=2, bidirectional=True),
    "rnn": _cells(nn.RNN),
    "chosen": Trap(TopK, VECTOR),
    "classes": Trap(lambda: Features(conv_norm(3, 6, 3), Do(lambda x: x.argmax(1))), IMAGE),
    "fused": Trap(Fused, _three),
    "normalized": Trap(Normalized, VECTOR),
}

CASES = {
    name: Trap(lambda make=trap.make: randomized(make()), trap.draw) for name, trap in DRAWN.items()
}
