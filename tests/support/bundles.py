"""A bundle with fake models, for tests that run none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edgekd.bundles import folder
from edgekd.bundles import golden_vectors as golden
from edgekd.bundles.archive import files_under
from edgekd.bundles.manifest import Lineage, Manifest, Model, Quantization, Tensor
from edgekd.recipe.bundle import Android, Licences

FILES = {"litert": "model.tflite", "onnx": "model.onnx", "coreml": "model.mlpackage/Manifest.json"}
LABELS = ["cat", 'a "quoted" \\(name)', "Grüße ??/", "*/ x"]

EVIDENCE = {
    "evidence": "device",
    "agreement": {"metric": 0.9, "top1_agreement_frac": 0.99},
    "measurement": {"p50_ms": 2.0, "p90_ms": 3.0},
}


def written(
    parent: Path, formats: tuple[str, ...] = ("litert", "onnx", "coreml"), **changed: Any
) -> tuple[Path, Manifest]:
    """Write a bundle below `parent`; returns its folder and its manifest."""
    name, version = changed.get("name", "key-spotter"), changed.get("version", "1.2.3")
    bundle = parent / f"{name}-{version}"
    models = [model(bundle, format) for format in formats]
    fields: dict[str, Any] = {
        "schema_version": 1,
        "name": "key-spotter",
        "version": "1.2.3",
        "description": "Hears | a <key>.",
        "task": "classification",
        "metric": "accuracy",
        "labels": LABELS,
        "licences": Licences(model="Apache-2.0", data="what the owner says"),
        "android": Android(group="com.acme.models"),
        "models": models,
        "left_out": {"pixel-8": "no candidate passed"},
        "lineage": Lineage(
            edgekd="0.1.0",
            recipe_sha256="0" * 64,
            data_sha256="1" * 64,
            tools={"torch": "2.13.0"},
            teacher={"metric": 0.95},
            student={"metric": 0.94},
        ),
    }
    manifest = Manifest(**{**fields, **changed})
    return bundle, folder.finish(bundle, manifest)


def model(
    bundle: Path,
    format: str,
    target: str = "",
    file: str = "",
    tensors: tuple[str, ...] = ("image", "scores"),
    **changed: Any,
) -> Model:
    """Write a model of `format`, with golden vectors, into the folder `bundle`.

    Args:
        file: the name of its file, in place of the usual one.
        tensors: the names of its input and of its output.
    """
    target = target or f"phone-{format}"
    home = bundle / "models" / target
    entry, inner = (file or FILES[format].partition("/")[0]), FILES[format].partition("/")[2]
    path = home / entry / inner
    path.parent.mkdir(parents=True)
    path.write_bytes(f"a model of {format}".encode() * 50)
    inputs = {tensors[0]: torch.arange(2 * 6, dtype=torch.float32).reshape(2, 1, 2, 3)}
    outputs = {tensors[1]: torch.linspace(-1, 1, 8).reshape(2, 4).round().to(torch.int8)}
    files = {f"models/{target}/{name}": file for name, file in files_under(home).items()}
    fields: dict[str, Any] = {
        "target": target,
        "format": format,
        "scheme": "fp32",
        "machine": "aarch64",
        "accelerator": "cpu",
        "entry": f"models/{target}/{entry}",
        "files": [folder.described(name, file) for name, file in files.items()],
        "size_bytes": path.stat().st_size,
        "exported_sha256": "2" * 64,
        "inputs": [Tensor(name=tensors[0], shape=[1, 1, 2, 3], dtype="float32")],
        "outputs": [
            Tensor(
                name=tensors[1],
                shape=[1, 4],
                dtype="int8",
                quantization=Quantization(scale=0.5, zero_point=-3),
            )
        ],
        "golden": golden.write(bundle, inputs, outputs, target, "fp32"),
        "why": "it passed",
        "evidence": EVIDENCE,
    }
    return Model(**{**fields, **changed})
