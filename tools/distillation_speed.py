"""The cost of a distillation step, relative to a supervised step of the same student.

    python tools/distillation_speed.py [--rounds 12] [--json FILE]

Every variant is a real `edgekd.distill` in a thread of its own. The variants take turns, one epoch
each, so that a ratio compares two epochs measured one after the other in one run. The first epochs,
which fill the cache and compile the student, do not count; their time is reported on its own.
"supervised again" is the same training as "supervised"; its distance from 1 is the noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import edgekd
from edgekd.data import Data
from edgekd.network.network import Network, as_network
from edgekd.recipe.training import Distill
from edgekd.tasks.evaluate import count_macs
from edgekd.training.options import Record, TrainingOptions

SAMPLES, BATCH_SIZE, WARM_UP = 4096, 64, 2
STEPS = SAMPLES // BATCH_SIZE
HARD = {"method": "hard", "weight": 0.1}
SOFT = {"method": "soft_target", "weight": 0.9, "temperature": 4.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "supervised": {"losses": [{"method": "hard"}]},
    "supervised again": {"losses": [{"method": "hard"}]},
    "live": {"losses": [HARD, SOFT], "teacher_outputs": "live"},
    "cached": {"losses": [HARD, SOFT]},
    "cached, channels_last": {"losses": [HARD, SOFT], "channels_last": True},
    "cached, compile": {"losses": [HARD, SOFT], "compile": True},
}


def convolution(ins: int, outs: int, size: int, stride: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(ins, outs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outs),
        nn.ReLU(),
    )


def depthwise(width: int, stem_stride: int) -> Network:
    """A depthwise-separable student for 28 x 28 images."""
    layers: list[nn.Module] = [convolution(1, width, 3, stem_stride)]
    for ins, outs, stride in ((width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1)):
        layers += [convolution(ins, ins, 3, stride, groups=ins), convolution(ins, outs, 1, 1)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)]
    return as_network(nn.Sequential(*layers), torch.zeros(1, 1, 28, 28))


class Block(nn.Module):
    """Two convolutions with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(width, width, 3, 1),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.layers(x)).relu()


def residual(width: int, stem_stride: int) -> Network:
    """A residual teacher for 28 x 28 images."""
    layers = [
        convolution(1, width, 3, stem_stride),
        Block(width),
        convolution(width, 2 * width, 3, 2),
    ]
    layers += [Block(2 * width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)]
    return as_network(nn.Sequential(*layers), torch.zeros(1, 1, 28, 28))


@dataclass
class Variant:
    """One training, which waits for its turn before each epoch."""

    name: str
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    done: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    started: float = 0.0
    epochs_s: list[float] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    error: BaseException | None = None

    def train(self, teacher: Network, student: Network, data: Data, epochs: int) -> None:
        """Distills for `epochs` epochs, one in each turn."""
        config = Distill.model_validate(
            {"epochs": epochs, "batch_size": BATCH_SIZE, **VARIANTS[self.name]}
        )
        self.turn.acquire()
        self.started = time.perf_counter()
        try:
            edgekd.distill(
                teacher,
                student,
                data,
                config,
                options=TrainingOptions(progress=self._end_turn, log=self.messages.append),
            )
        except BaseException as error:  # noqa: BLE001  raised in the main thread
            self.error = error
            self.done.release()

    def _end_turn(self, done: int, total: int, record: Record) -> None:  # noqa: ARG002
        self.epochs_s.append(time.perf_counter() - self.started)
        self.done.release()
        if done < total:
            self.turn.acquire()
            self.started = time.perf_counter()


def measure(teacher: Network, student: Network, rounds: int) -> list[Variant]:
    """All variants after training, one epoch of each in turn."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, 1, 28, 28, generator=generator)
    labels = torch.randint(0, 10, (SAMPLES,), generator=generator)
    few = TensorDataset(x[:8], labels[:8])
    data = Data(TensorDataset(x, labels), few, few)
    variants = [Variant(name) for name in VARIANTS]
    epochs = rounds + WARM_UP
    args = (teacher, student, data, epochs)
    threads = [
        threading.Thread(target=variant.train, args=args, daemon=True) for variant in variants
    ]
    for thread in threads:
        thread.start()
    for number in range(epochs):
        # Each round starts with another variant, so that no variant always comes first.
        first = number % len(variants)
        for variant in variants[first:] + variants[:first]:
            variant.turn.release()
            variant.done.acquire()
            if variant.error is not None:
                raise variant.error
        sys.stderr.write(f"\rround {number + 1} of {epochs}")
    sys.stderr.write("\n")
    for thread in threads:
        thread.join()
    return variants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for teacher, student in (
        (residual(33, 2), depthwise(32, 2)),
        (residual(64, 2), depthwise(18, 4)),
    ):
        times = count_macs(teacher) / count_macs(student)
        print(
            f"\nteacher {count_macs(teacher):,} MACs, student {count_macs(student):,}: "
            f"{times:.0f} times; batches of {BATCH_SIZE}, one thread"
        )
        variants = measure(teacher, student, args.rounds)
        base = variants[0].epochs_s[WARM_UP:]
        for variant in variants:
            counted = variant.epochs_s[WARM_UP:]
            ratios = sorted(ours / theirs for ours, theirs in zip(counted, base, strict=True))
            row = {
                "times": times,
                "way": variant.name,
                "step_ms": 1e3 * statistics.median(counted) / STEPS,
                "ratio": statistics.median(ratios),
                "ratio_low": ratios[len(ratios) // 10],
                "ratio_high": ratios[-1 - len(ratios) // 10],
                "first_epochs_s": sum(variant.epochs_s[:WARM_UP]),
                "said": [line for line in variant.messages if "compiled" in line],
            }
            rows.append(row)
            print(
                f"  {variant.name:24} {row['step_ms']:8.2f} ms a step, {row['ratio']:6.2f} times "
                f"supervised ({row['ratio_low']:.2f} to {row['ratio_high']:.2f}); first "
                f"{WARM_UP} epochs {row['first_epochs_s']:.1f} s {'; '.join(row['said'])}"
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
