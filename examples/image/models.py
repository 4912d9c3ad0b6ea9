"""A small ResNet, and a student of depthwise-separable convolutions a thirtieth of its size."""

from __future__ import annotations

from torch import Tensor, nn


class Residual(nn.Module):
    """Two convolutions with a skip connection.

    Source: He et al. 2016, arXiv:1512.03385, figure 2.
    """

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(ins, outs, 3, stride)
        self.second = nn.Sequential(
            nn.Conv2d(outs, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs)
        )
        self.skip = nn.Conv2d(ins, outs, 1, stride, bias=False) if ins != outs else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.second(self.first(x)) + self.skip(x))


class DigitNet(nn.Module):
    """Stages of convolutions, global average pooling and a linear layer."""

    def __init__(self, stages: nn.Sequential, width: int) -> None:
        super().__init__()
        self.stages = stages
        self.head = nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits for images of shape batch x 1 x 8 x 8."""
        return self.head(self.stages(image).mean((2, 3)))


def _convolution(ins: int, outs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(ins, outs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outs),
        nn.ReLU(),
    )


def _separable(ins: int, outs: int, stride: int = 1) -> nn.Sequential:
    """A depthwise convolution followed by a pointwise one.

    Source: Howard et al. 2017, arXiv:1704.04861, section 3.1.
    """
    return nn.Sequential(_convolution(ins, ins, 3, stride, ins), _convolution(ins, outs, 1))


def teacher() -> nn.Module:
    """A ResNet of six convolutions in three blocks."""
    blocks = [Residual(32, 32, 1), Residual(32, 64, 2), Residual(64, 64, 1)]
    return DigitNet(nn.Sequential(_convolution(1, 32, 3), *blocks), 64)


def student() -> nn.Module:
    """A full convolution followed by three depthwise-separable ones."""
    parts = [_separable(16, 24, 2), _separable(24, 32), _separable(32, 48)]
    return DigitNet(nn.Sequential(_convolution(1, 16, 3), *parts), 48)
