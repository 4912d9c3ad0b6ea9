"""A 1-D convolutional teacher and a student of a tenth of its size."""

from __future__ import annotations

from torch import Tensor, nn


class SignalNet(nn.Module):
    """Four convolutions over time, average pooling and a linear layer."""

    def __init__(self, widths: tuple[int, int, int, int], classes: int = 10) -> None:
        super().__init__()
        ins, strides = (1, *widths[:-1]), (1, 2, 2, 1)
        self.stages = nn.Sequential(
            *(_stage(*each) for each in zip(ins, widths, strides, strict=True))
        )
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, signal: Tensor) -> Tensor:
        """Logits for signals of shape batch x 1 x time."""
        return self.head(self.stages(signal).mean(2))


def _stage(ins: int, outs: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv1d(ins, outs, 5, stride=stride, padding=2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm1d(outs), nn.ReLU())


def teacher() -> nn.Module:
    """The teacher, with 52 thousand parameters."""
    return SignalNet((32, 64, 64, 64))


def student() -> nn.Module:
    """The student, with 5 thousand parameters."""
    return SignalNet((12, 12, 24, 24))
