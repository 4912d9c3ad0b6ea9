"""A small project with a recipe, the output of a command, and the five parts of an error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

DATA = """
import torch
from torch.utils.data import TensorDataset
import edgekd


def blobs(count=240, classes=3):
    generator = torch.Generator().manual_seed(7)
    centres = 2.0 * torch.randn(classes, 8, generator=generator)

    def split(n):
        labels = torch.randint(0, classes, (n,), generator=generator)
        return TensorDataset(centres[labels] + torch.randn(n, 8, generator=generator), labels)

    return edgekd.Data(train=split(count), validation=split(60), test=split(120), augment=noise)


def noise(inputs, seeds):
    step = (seeds % 1000).float() / 1000 - 0.5
    return {name: value + 0.1 * step[:, None] for name, value in inputs.items()}
"""

OUTLIER = """
import torch
from torch import nn
from torch.nn import functional as F


class Outlier(nn.Module):
    \"\"\"A student with one channel two thousand times as large as the others.\"\"\"

    def __init__(self):
        super().__init__()
        self.enter, self.second = nn.Linear(8, 12), nn.Linear(12, 12)
        self.third, self.head = nn.Linear(12, 12), nn.Linear(12, 3)
        self.register_buffer("size", torch.tensor([2000.0] + 11 * [1.0]))

    def forward(self, x):
        hidden = F.relu(self.enter(x)) * self.size
        hidden = F.relu(F.linear(hidden, self.second.weight / self.size, self.second.bias))
        return self.head(F.relu(self.third(hidden)))
"""
"""A student for `models.py`, beside those of MODELS."""

MODELS = """
from torch import nn


def net(width):
    return nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))


def teacher():
    return net(32)


def student():
    return net(6)


def student_of_four_classes():
    return nn.Linear(8, 4)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(x) if x.sum() > 0 else -self.head(x)


def branching():
    return Branching()


def not_a_module():
    return 3


def failing():
    raise RuntimeError("no such file: weights.bin")
"""


def tiny_recipe() -> dict[str, Any]:
    """A recipe that runs in seconds, as a document that a test changes."""
    training = {"epochs": 3, "batch_size": 32, "optimizer": {"learning_rate": 1e-2}}
    return {
        "name": "tiny",
        "data": {"load": "data.py:blobs"},
        "teacher": {"load": "models.py:teacher", "train": {**training}},
        "student": {"load": "models.py:student"},
        "distill": {
            **training,
            "losses": [
                {"method": "hard", "weight": 0.1},
                {"method": "soft_target", "weight": 0.9, "temperature": 4.0},
            ],
        },
        "quantize": {"schemes": ["fp32"], "search": "first"},
        # Importing converters costs each process seconds; this one has imported them.
        "export": {"processes": 0},
        # A short protocol is enough for tests of the pipeline.
        "benchmark": {"protocol": "quick"},
        "accept": {"max_drop": 0.5, "min_agreement": 0.9},
        "targets": [{"name": "x86-cpu-onnx"}],
    }


@dataclass(frozen=True)
class Project:
    """A folder with `data.py`, `models.py` and a recipe."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.toml"

    def write(self, document: dict[str, Any]) -> Path:
        self.recipe.write_text(tomli_w.dumps(document))
        return self.recipe


@dataclass(frozen=True)
class CommandResult:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


PARTS = ("  at:       ", "  got:      ", "  expected: ", "  fix:      ")


def assert_five_parts(text: str) -> None:
    """Assert that `text` has an error message with five parts that are not empty."""
    lines = text.strip().splitlines()
    for part in PARTS:
        assert any(line.startswith(part) and line[len(part) :].strip() for line in lines), text
