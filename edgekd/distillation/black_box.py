"""Black-box teachers, which have outputs alone: model files, and tables of outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgekd.artifacts.artifact import Artifact, load_artifact
from edgekd.data import Data, Inputs
from edgekd.devices.job import Job, failure_error, failure_in, run_job
from edgekd.errors import EdgekdError, Fault, MissingPackageError, RecipeError
from edgekd.evidence.outcome import Outcome
from edgekd.formats import find_format
from edgekd.formats.capabilities import read_quantization
from edgekd.system.files import path_digest
from edgekd.system.import_string import existing
from edgekd.system.packages import missing

FILES = (".onnx", ".tflite", ".xml")
TABLE = "outputs:"
SPLITS = ("train", "validation", "test", "unlabeled")
DYNAMIC_BATCH = 256
"""Samples at once for a file with a dynamic batch size."""


def is_black_box(reference: str) -> bool:
    """Whether a teacher's `load` names a model file or a table of outputs."""
    return reference.startswith(TABLE) or reference.endswith(FILES)


def load_black_box(
    reference: str, *, base: Path, at: str = "teacher.load", device: str = "local"
) -> BlackBox | OutputsTable:
    """The teacher that `reference` names: a .onnx, .tflite or OpenVINO .xml file, or a table
    "outputs:FILE.safetensors".

    Args:
        base: the folder that the path is relative to.
        device: where the file is run.

    Raises:
        RecipeError: there is no such file, or it cannot be loaded.
        MissingPackageError: the file's runtime is not installed.
    """
    path = existing(base / reference.removeprefix(TABLE), at)
    if reference.startswith(TABLE):
        return _load_table(path, reference, at)
    artifact = load_artifact(path)
    module = find_format(artifact.format)
    job = Job("run", module.RUNTIME, {"teacher": path}, threads=1)
    result = run_job(device, job).results["teacher"]
    if "inputs" not in result:
        verdict = failure_in(result)
        absent = missing(module.PACKAGES, extra=module.EXTRA)
        if verdict and verdict.outcome is Outcome.UNAVAILABLE and absent and device == "local":
            raise MissingPackageError(absent)
        raise RecipeError(
            Fault(
                what="The teacher's file cannot be loaded.",
                at=at,
                got=verdict.detail if verdict else "nothing",
                expected=f"a file that {module.RUNTIME} loads",
                fix=f"export the teacher again, or check {path} with its own tools",
            )
        )
    inputs = tuple(
        _input(name, _as_nchw(shape) if name in artifact.channels_last else shape, dtype)
        for name, shape, dtype in result["inputs"]
    )
    artifact = read_quantization(artifact)
    inputs = tuple(
        replace(each, dtype="float32") if each.name in artifact.quantization else each
        for each in inputs
    )
    return BlackBox(reference, artifact, inputs, tuple(result["outputs"]), device)


def _as_nchw(shape: list[Any]) -> list[Any]:
    """The NCHW shape of an input that the file takes as NHWC."""
    return [shape[0], shape[3], *shape[1:3]]


@dataclass(frozen=True)
class FileInput:
    """An input of a model file: its name, its shape with None for a dynamic dimension, its dtype.

    An image that the file takes as NHWC has the shape NCHW here, in which it is passed; an integer
    input that stands for real values has the data type float32.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


def _input(name: str, shape: list[Any], dtype: str) -> FileInput:
    sizes = tuple(size if isinstance(size, int) and size > 0 else None for size in shape)
    return FileInput(name, sizes, {"float": "float32", "double": "float64"}.get(dtype, dtype))


@dataclass(frozen=True)
class BlackBox:
    """A model file that is run in its own runtime.

    Attributes:
        reference: its name in the recipe.
        inputs, output_names: those of the file.
        device: the device that runs it.
    """

    reference: str
    artifact: Artifact
    inputs: tuple[FileInput, ...]
    output_names: tuple[str, ...]
    device: str = "local"

    @property
    def key(self) -> dict[str, Any]:
        """Its identity, for the keys of results that depend on it."""
        return {
            "reference": self.reference,
            "sha256": self.artifact.sha256,
            "runtime": find_format(self.artifact.format).RUNTIME,
        }

    @property
    def batch_size(self) -> int | None:
        """The batch size that the file was written for; None if it is dynamic."""
        return self.inputs[0].shape[0]

    def outputs(self, inputs: Inputs) -> Tensor:
        """The first output for `inputs`, in float32 on the CPU, samples first.

        Raises:
            RecipeError: the file takes other inputs.
            ConversionError, UnreachableError: it fails in its runtime.
        """
        named = self._named(inputs)
        count = len(next(iter(named.values())))
        size = self.batch_size or min(DYNAMIC_BATCH, count)
        # The last sample is repeated to fill a batch.
        ids = np.minimum(np.arange(-(-count // size) * size), count - 1)
        job = Job(
            action="run",
            runtime=find_format(self.artifact.format).RUNTIME,
            artifacts={"teacher": self.artifact.path},
            batches={"teacher": size},
            channels_last={"teacher": self.artifact.channels_last},
            quantization={"teacher": self.artifact.quantization},
            threads=1,
            inputs={name: array[ids] for name, array in named.items()},
        )
        report = run_job(self.device, job)
        verdict = failure_in(report.results["teacher"])
        if verdict:
            error: EdgekdError = failure_error(verdict, self.artifact)
            raise error
        outputs = report.outputs["teacher"][self.output_names[0]]
        if len(outputs) != len(ids):
            raise RecipeError(_no_batch(self, outputs.shape, len(ids)))
        return torch.from_numpy(np.asarray(outputs[:count], dtype=np.float32))

    def _named(self, inputs: Inputs) -> dict[str, Any]:
        """The inputs by the file's names: by name if the names are equal, else in order."""
        names = [entry.name for entry in self.inputs]
        given = (
            dict(inputs)
            if set(names) == set(inputs)
            else dict(zip(names, inputs.values(), strict=False))
        )
        fits = len(names) == len(inputs) and all(
            _fits(entry, given[entry.name]) for entry in self.inputs
        )
        if not fits:
            raise RecipeError(
                Fault(
                    what="The teacher's inputs are not the student's.",
                    at=self.reference,
                    got=", ".join(f"{name} {_shape(inputs[name].shape)}" for name in inputs),
                    expected=", ".join(
                        f"{e.name} {_shape(e.shape)} {e.dtype}" for e in self.inputs
                    ),
                    fix="export the teacher with the inputs that the data has, in its layout",
                )
            )
        return {
            entry.name: given[entry.name].detach().cpu().numpy().astype(entry.dtype, copy=False)
            for entry in self.inputs
        }


def _fits(entry: FileInput, tensor: Tensor) -> bool:
    sizes = zip(entry.shape[1:], tensor.shape[1:], strict=False)
    same_kind = np.dtype(entry.dtype).kind == ("f" if tensor.is_floating_point() else "i")
    return (
        len(entry.shape) == tensor.ndim
        and same_kind
        and all(size in (None, given) for size, given in sizes)
    )


def _shape(shape: Any) -> str:
    """A shape without its batch, as text."""
    return "x".join("?" if size is None else str(size) for size in tuple(shape)[1:]) or "scalar"


def _no_batch(teacher: BlackBox, shape: tuple[int, ...], count: int) -> Fault:
    return Fault(
        what="The teacher's output has another number of samples than its input.",
        at=f"{teacher.reference}, output {teacher.output_names[0]}",
        got=f"shape {shape} for {count} samples",
        expected="an output whose first axis is the batch",
        fix="export the teacher so that its first output is batch x classes",
    )


@dataclass(frozen=True)
class OutputsTable:
    """Outputs that were computed elsewhere, by split, in the order of the data."""

    reference: str
    at: str
    sha256: str
    tables: Mapping[str, Tensor]

    @property
    def key(self) -> dict[str, Any]:
        """Its identity, for the keys of results that depend on it."""
        return {"reference": self.reference, "sha256": self.sha256}

    @property
    def splits(self) -> list[str]:
        """The splits it has outputs for."""
        return list(self.tables)

    def rows(self, split: str) -> Tensor:
        """The outputs of the samples of `split`, in float32.

        Raises:
            RecipeError: it has no outputs for this split.
        """
        if split not in self.tables:
            raise RecipeError(
                Fault(
                    what=f"The table has no outputs for the split {split!r}.",
                    at=self.at,
                    got=", ".join(self.tables),
                    expected=f"a tensor {split!r}, a row for each sample",
                    fix=f"save the teacher's outputs for {split!r} too",
                )
            )
        return self.tables[split].float()

    def check(self, data: Data) -> None:
        """Checks that there is a finite row for each sample of the data.

        Raises:
            RecipeError: there is not; the error has all faults.
        """
        needed = ["train"] + (["unlabeled"] if data.unlabeled is not None else [])
        faults: list[Fault] = []
        for split in dict.fromkeys([*needed, *self.tables]):
            dataset = getattr(data, split)
            if dataset is None:
                continue
            try:
                rows = self.rows(split)
            except RecipeError as error:
                faults.extend(error.faults)
                continue
            if len(rows) != len(dataset):
                faults.append(
                    Fault(
                        what=f"The table's split {split!r} does not match this data.",
                        at=self.at,
                        got=f"{len(rows)} rows",
                        expected=f"{len(dataset)} rows, one for each sample, in order",
                        fix="compute the outputs again with this data",
                    )
                )
            bad = (~torch.isfinite(rows).flatten(1).all(1)).nonzero().flatten()
            if len(bad):
                faults.append(
                    Fault(
                        what=f"The table's split {split!r} has outputs that are not finite.",
                        at=self.at,
                        got=f"{len(bad)} rows, the first {bad[:5].tolist()}",
                        expected="finite numbers",
                        fix="compute the outputs of these samples again",
                    )
                )
        if faults:
            raise RecipeError(*faults)


def _load_table(path: Path, reference: str, at: str) -> OutputsTable:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tables = load_file(path)
        wrong = {name: tuple(table.shape) for name, table in tables.items() if table.ndim < 2}
        unknown = [name for name in tables if name not in SPLITS]
        if "train" not in tables or wrong or unknown:
            shown = ", ".join(f"{name} {tuple(table.shape)}" for name, table in tables.items())
            raise ValueError(f"it has {shown or 'nothing'}")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise RecipeError(
            Fault(
                what="This file is not a table of outputs.",
                at=at,
                got=str(error),
                expected="a .safetensors with 'train', samples x classes, and for other splits "
                "'validation', 'test' and 'unlabeled'",
                fix="safetensors.torch.save_file({'train': logits}, FILE)",
            )
        ) from error
    return OutputsTable(reference, at, path_digest(path), tables)
