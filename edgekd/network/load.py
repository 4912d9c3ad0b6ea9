"""Loads a network by its reference: a callable, an exported program, timm or Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.artifacts.signature import DynamicDim
from edgekd.errors import Fault, RecipeError
from edgekd.network.exported_program import Program, load_program
from edgekd.network.network import Example, Network, as_network
from edgekd.network.pt2_archive import UnsafeArchiveError
from edgekd.system.files import path_digest
from edgekd.system.import_string import call_user, existing, resolve, sources_digest
from edgekd.system.packages import need


def load_module(
    reference: str,
    *,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    base: Path | None = None,
    at: str = "load",
) -> tuple[nn.Module, dict[str, Any]]:
    """The module that `reference` names and its lineage.

    Args:
        reference: "package.module:callable", "path/file.py:callable" (relative to `base`), a
            `torch.export` ".pt2", "timm:NAME" or "hf:FOLDER".
        weights: a ".safetensors" file, or one that `torch.load(weights_only=True)` takes.
        options: keyword arguments of the callable.
        at: the recipe's key, for messages.

    Raises:
        RecipeError: the reference does not exist, fails or is no module, or the weights do not fit.
        MissingPackageError: timm or transformers is not installed.
    """
    base = base or Path()
    lineage: dict[str, Any] = {"reference": reference}
    if reference.startswith("timm:"):
        timm = need("timm", extra="timm")
        name = reference.removeprefix("timm:")
        module = call_user(
            timm.create_model, at, model_name=name, pretrained=False, **options or {}
        )
    elif reference.startswith("hf:"):
        transformers = need("transformers", extra="huggingface")
        folder = existing(base / reference.removeprefix("hf:"), at)

        def from_pretrained(**keys: Any) -> Any:
            # transformers imports what it needs at this point, which may fail.
            keys |= {"local_files_only": True, "trust_remote_code": False}
            return transformers.AutoModel.from_pretrained(folder, **keys)

        module = call_user(from_pretrained, at, **options or {})
    elif reference.endswith(".pt2"):
        path = existing(base / reference, at)
        module = _load_archive(path, at)
        lineage["source_sha256"] = path_digest(path)
    else:
        module = call_user(resolve(reference, base=base, at=at), at, **options or {})
        lineage["source_sha256"] = sources_digest(base)
    if not isinstance(module, nn.Module):
        raise RecipeError(
            Fault(
                what=f"{reference} did not return a torch module.",
                at=at,
                got=type(module).__name__,
                expected="a torch.nn.Module",
                fix="return the module from the callable",
            )
        )
    if weights is not None:
        path = existing(base / weights, at)
        _load_weights(module, path, at)
        lineage["weights_sha256"] = path_digest(path)
    return module, lineage


def load_network(
    reference: str | nn.Module,
    *,
    example: Example | Tensor | None = None,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    base: Path | None = None,
    dynamic: Sequence[DynamicDim] = (),
) -> Network:
    """The network that `reference` names, or that a module is.

    Args:
        reference: see `load_module`.
        example: inputs by name or in order, batch first; a `.pt2` file has its own.
        dynamic: the dynamic dimensions of the inputs, which files keep dynamic.

    Raises:
        RecipeError: see `load_module`; or there is no example, or the module does not accept it.
    """
    if isinstance(reference, nn.Module):
        module, lineage = reference, {"reference": type(reference).__qualname__}
    else:
        module, lineage = load_module(reference, weights=weights, options=options, base=base)
    if example is None and isinstance(module, Program):
        example = module.example
    if example is None:
        raise RecipeError(
            Fault(
                what="A network needs example inputs.",
                at=str(lineage["reference"]),
                got="no example",
                expected="tensors by input name, batch first",
                fix='give example={"image": torch.zeros(1, 3, 32, 32)}, '
                "on the command line --example image=1x3x32x32",
            )
        )
    return as_network(module, example, lineage, dynamic)


def _load_archive(path: Path, at: str) -> nn.Module:
    try:
        return load_program(path)
    except Exception as error:
        unsafe = isinstance(error, UnsafeArchiveError)
        raise RecipeError(
            Fault(
                what=f"{path} could run code when it is read, so it was not read."
                if unsafe
                else f"{path} cannot be read as an exported program.",
                at=at,
                got=str(error).strip().replace("\n", " ")[:500],
                expected="an archive of torch.export.save that holds tensors and operators only",
                fix="save it again: torch.export.save(torch.export.export(module, args), path); "
                "constants that are not tensors must become buffers or plain numbers first",
            )
        ) from error


def _load_weights(module: nn.Module, path: Path, at: str) -> None:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(state)
    except Exception as error:
        raise RecipeError(
            Fault(
                what=f"The weights in {path} do not fit the network.",
                at=at,
                got=str(error).strip().replace("\n", " ")[:500],
                expected="a state dict of this network, in safetensors or readable with "
                "torch.load(weights_only=True)",
                fix="save them with safetensors.torch.save_file(module.state_dict(), path)",
            )
        ) from error
