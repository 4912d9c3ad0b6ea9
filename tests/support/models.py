"""Tiny networks, each with one difficulty for converters, and their inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """A sum of two branches, batch-normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        stem = F.relu(self.stem(image))
        return self.head(F.relu(stem + self.body(stem)).mean((2, 3)))


class Depthwise(nn.Module):
    """A depthwise convolution with hardswish and squeeze-and-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.deep = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.gate = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        deep = F.hardswish(self.deep(F.relu(self.stem(image))))
        gate = torch.sigmoid(self.gate(F.adaptive_avg_pool2d(deep, 1)))
        return self.head((deep * gate).mean((2, 3)))


class Concat(nn.Module):
    """A concatenation of pooled and strided features, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1)
        self.right = nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(8 * 4 * 4, 5)

    def forward(self, image: Tensor) -> Tensor:
        both = torch.cat([F.relu(self.left(image)), F.relu(self.right(image))], 1)
        return self.head(F.max_pool2d(both, 2).flatten(1))


class SharedWeights(nn.Module):
    """One linear layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.same, self.head = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.relu(self.same(F.relu(self.enter(features))))
        return self.head(F.relu(self.same(hidden)))


class TwoInputs(nn.Module):
    """Two inputs and a dict of two outputs, neither in alphabetical order."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 5)

    def forward(self, zeta: Tensor, alpha: Tensor) -> dict[str, Tensor]:
        hidden = F.relu(self.left(zeta) + self.right(alpha))
        return {"logits": self.head(hidden), "features": hidden}


class Attention(nn.Module):
    """Token embedding, layer norm and self-attention over integer ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(20, 16), nn.LayerNorm(16)
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, ids: Tensor) -> Tensor:
        tokens = self.norm(self.embed(ids))
        scores = self.query(tokens) @ self.key(tokens).transpose(1, 2) / 4.0
        return self.head((scores.softmax(-1) @ self.value(tokens)).mean(1))


class Signal(nn.Module):
    """1-D convolutions over time, as in the sensor example."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, 8, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Conv1d(8, 8, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(8, 5)

    def forward(self, signal: Tensor) -> Tensor:
        return self.head(self.body(signal).mean(2))


class Recurrent(nn.Module):
    """A GRU and its final state."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.GRU(3, 8, batch_first=True), nn.Linear(8, 5)

    def forward(self, steps: Tensor) -> Tensor:
        return self.head(self.cells(steps)[0][:, -1])


class Branching(nn.Module):
    """Data-dependent control flow, which no converter supports."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 5)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(features) if features.sum() > 0 else -self.head(features)


@dataclass(frozen=True)
class Trap:
    """A network and a generator of its inputs."""

    make: Callable[[], nn.Module]
    draw: Callable[[int, torch.Generator], dict[str, Tensor]]

    def build(self, seed: int = 0) -> nn.Module:
        """The network with seeded weights and non-trivial batch-norm statistics."""
        torch.manual_seed(seed)
        module = self.make()
        module.train()
        with torch.no_grad():
            for batch in range(4):
                module(**self.draw(32, torch.Generator().manual_seed(batch)))
        return module.eval()


def _normal(name: str, *shape: int) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    return lambda count, generator: {name: torch.randn(count, *shape, generator=generator)}


def _two(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        "zeta": torch.randn(count, 4, generator=generator),
        "alpha": torch.randn(count, 3, generator=generator),
    }


def _ids(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {"ids": torch.randint(0, 20, (count, 7), generator=generator)}


TRAPS: dict[str, Trap] = {
    "residual": Trap(Residual, _normal("image", 3, 8, 8)),
    "depthwise": Trap(Depthwise, _normal("image", 3, 8, 8)),
    "concat": Trap(Concat, _normal("image", 3, 8, 8)),
    "shared-weights": Trap(SharedWeights, _normal("features", 6)),
    "two-inputs": Trap(TwoInputs, _two),
    "attention": Trap(Attention, _ids),
    "signal": Trap(Signal, _normal("signal", 1, 40)),
    "recurrent": Trap(Recurrent, _normal("steps", 6, 3)),
}
