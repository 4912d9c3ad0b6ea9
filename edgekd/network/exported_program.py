"""A network that was loaded from a torch.export archive."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.artifacts.signature import Signature
from edgekd.network.pt2_archive import check_archive


class Program(nn.Module):
    """An exported program as a module; its mode and the form of its inputs are fixed."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.exported = program
        self.program = program.module()
        arguments, keywords = program.example_inputs or ((), {})
        self.example: Mapping[str, Tensor] | tuple[Tensor, ...] = keywords or tuple(arguments)
        self.keywords = tuple(keywords)

    def forward(self, *inputs: Tensor) -> Any:
        if self.keywords:
            return self.program(**dict(zip(self.keywords, inputs, strict=True)))
        return self.program(*inputs)

    def has(self, signature: Signature) -> bool:
        """Whether it takes the inputs of `signature` by name and returns its outputs as a dict."""
        spec = self.exported.call_spec.out_spec
        names = list(spec.context) if spec is not None and spec.type is dict else []
        return list(self.keywords) == signature.input_names and names == signature.output_names

    def train(self, mode: bool = True) -> Program:  # noqa: ARG002
        return self

    def eval(self) -> Program:
        return self


def load_program(path: Path) -> Program:
    """The exported program in `path`; its archive is checked before anything in it is read.

    Raises:
        UnsafeArchiveError: the archive holds something that could run code.
        ValueError: it is no archive of `torch.export.save`.
    """
    check_archive(path)
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.ERROR)  # It logs the traceback of a failure, which is raised too.
    try:
        return Program(torch.export.load(path))
    finally:
        log.setLevel(level)
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before
