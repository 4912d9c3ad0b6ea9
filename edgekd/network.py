"""A network: a torch module with names for what goes in and comes out, and where it came from."""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.errors import Fault, RecipeError, nearest
from edgekd.need import need
from edgekd.signature import Signature, TensorSpec
from edgekd.store import path_digest

Example = Mapping[str, Tensor] | tuple[Tensor, ...]
"""Example inputs, batch first: by name, or in the order `forward` takes them."""


@dataclass(frozen=True)
class Network:
    """A module that takes and returns named tensors.

    Attributes:
        module: in whatever mode and on whatever device its owner keeps it.
        signature: names, shapes (those of the example) and dtypes.
        example: inputs that fit the signature.
        lineage: where the module and its weights came from.
    """

    module: nn.Module
    signature: Signature
    example: Mapping[str, Tensor]
    lineage: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The named outputs for the named inputs."""
        return call(self.module, inputs)

    @property
    def parameter_count(self) -> int:
        """Trained and frozen parameters; shared ones count once."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def weights_digest(self) -> str:
        """The sha256 of all parameters and buffers, by name."""
        return weights_digest(self.module)

    def with_module(self, module: nn.Module, **lineage: Any) -> Network:
        """The same signature over another module."""
        merged = {**self.lineage, **lineage}
        return Network(module, self.signature, self.example, merged)


def weights_digest(module: nn.Module) -> str:
    """The sha256 of all parameters and buffers of `module`, by name."""
    sha = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        values = tensor.detach().cpu().contiguous()
        sha.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        sha.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def call(
    module: nn.Module, inputs: Mapping[str, Tensor], *, names_of: nn.Module | None = None
) -> dict[str, Tensor]:
    """The outputs of `module` by name: a dict's keys, a named tuple's fields, else "output" or
    "output_0", "output_1", ...; inputs are passed by name where `forward` has these names.

    Args:
        names_of: whose `forward` has the names, where `module` is a wrapper around it.
    """
    names = _forward_names(names_of or module)
    if set(inputs) <= set(names):
        return _named(module(**inputs))
    return _named(module(*inputs.values()))


def _named(result: Any) -> dict[str, Tensor]:
    if isinstance(result, Tensor):
        return {"output": result}
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items() if isinstance(value, Tensor)}
    if hasattr(result, "_asdict"):
        return dict(result._asdict())
    return {f"output_{i}": value for i, value in enumerate(result)}


def _forward_names(module: nn.Module) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(module.forward).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def name_inputs(module: nn.Module, example: Example | Tensor) -> dict[str, Tensor]:
    """`example` by name: its own names, or those of the arguments of `forward`."""
    if isinstance(example, Mapping):
        return dict(example)
    tensors = (example,) if isinstance(example, Tensor) else tuple(example)
    names = _forward_names(module)
    if len(names) < len(tensors):
        names = [f"input_{i}" for i in range(len(tensors))] if len(tensors) > 1 else ["input"]
    return dict(zip(names, tensors, strict=False))


def as_network(
    module: nn.Module, example: Example | Tensor, lineage: Mapping[str, Any] | None = None
) -> Network:
    """`module` with the signature that `example` shows; the module itself is left as it is.

    Raises:
        RecipeError: the module does not take the example.
    """
    named = name_inputs(module, example)
    try:
        with torch.no_grad():
            outputs = call(copy.deepcopy(module).eval().cpu(), named)
    except Exception as error:
        raise RecipeError(
            Fault(
                what="The network does not take its example inputs.",
                at=type(module).__name__,
                got=f"{type(error).__name__}: {error}",
                expected="inputs of the shapes and dtypes that `forward` takes",
                fix="give an example that fits, batch first; inputs given: " + _shapes(named),
            )
        ) from error
    return Network(
        module=module,
        signature=Signature(
            inputs=tuple(_spec(name, tensor) for name, tensor in named.items()),
            outputs=tuple(_spec(name, tensor) for name, tensor in outputs.items()),
        ),
        example=named,
        lineage=lineage or {},
    )


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _shapes(inputs: Mapping[str, Tensor]) -> str:
    return ", ".join(
        f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in inputs.items()
    )


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
        RecipeError: nothing is there, it fails, it is no module, or the weights do not fit.
        MissingPackageError: timm or transformers is not installed.
    """
    base = base or Path()
    lineage: dict[str, Any] = {"reference": reference}
    if reference.startswith("timm:"):
        timm = need("timm", extra="timm")
        module = timm.create_model(
            reference.removeprefix("timm:"), pretrained=False, **options or {}
        )
    elif reference.startswith("hf:"):
        transformers = need("transformers", extra="huggingface")
        folder = base / reference.removeprefix("hf:")
        module = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, **options or {}
        )
    elif reference.endswith(".pt2"):
        path = _existing(base / reference, at)
        module = torch.export.load(path).module()
        lineage["source_sha256"] = path_digest(path)
    else:
        function = resolve(reference, base=base, at=at)
        module = call_user(function, at, **options or {})
        source = inspect.getsourcefile(function)
        lineage["source_sha256"] = path_digest(Path(source)) if source else None
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
        path = _existing(base / weights, at)
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
) -> Network:
    """The network that `reference` names, or the module given.

    Args:
        reference: see `load_module`.
        example: inputs by name or in order, batch first; a `.pt2` brings its own.

    Raises:
        RecipeError: see `load_module`; or there is no example, or the module does not take it.
    """
    if isinstance(reference, nn.Module):
        module, lineage = reference, {"reference": type(reference).__qualname__}
    else:
        module, lineage = load_module(reference, weights=weights, options=options, base=base)
    if example is None and isinstance(reference, str) and reference.endswith(".pt2"):
        arguments, keywords = torch.export.load((base or Path()) / reference).example_inputs
        example = keywords or tuple(arguments)
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
    return as_network(module, example, lineage)


def resolve(reference: str, *, base: Path, at: str) -> Callable[..., Any]:
    """The callable that "package.module:name" or "path/file.py:name" names.

    A file is imported once, with its folder at the end of the import path, so that it can import
    what lies beside it.

    Raises:
        RecipeError: the form is wrong, or the file or package is missing, fails, or lacks the name.
    """
    where, _, name = reference.partition(":")
    if not where or not name:
        raise RecipeError(
            Fault(
                what=f"{reference!r} is not a reference.",
                at=at,
                got=repr(reference),
                expected='"package.module:callable", "path/file.py:callable", a ".pt2", '
                '"timm:NAME" or "hf:FOLDER"',
                fix=f'write "{where or "path/file.py"}:NAME"',
            )
        )
    module = _import(where, base, at)
    if not callable(getattr(module, name, None)):
        known = [key for key, value in vars(module).items() if callable(value)]
        close = nearest(name, known)
        raise RecipeError(
            Fault(
                what=f"{where} has no callable {name!r}.",
                at=at,
                got=repr(name),
                expected=f"one of {', '.join(sorted(known)) or 'its callables (it has none)'}",
                fix=f"did you mean {close!r}?" if close else f"define {name} in {where}",
            )
        )
    found: Callable[..., Any] = getattr(module, name)
    return found


def call_user(function: Callable[..., Any], at: str, **options: Any) -> Any:
    """What the user's `function` returns.

    Raises:
        RecipeError: it raised; the cause is kept.
    """
    try:
        return function(**options)
    except Exception as error:
        raise RecipeError(
            Fault(
                what=f"{getattr(function, '__name__', function)} failed.",
                at=at,
                got=f"{type(error).__name__}: {error}",
                expected=f"a callable that takes {inspect.signature(function)}",
                fix="mend it, or its options in the recipe; the traceback is in the log",
            )
        ) from error


def _import(where: str, base: Path, at: str) -> ModuleType:
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        path = _existing(base / where, at).resolve()
        name = f"edgekd_user_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
        if name in sys.modules:
            return sys.modules[name]
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError(
            Fault(
                what=f"{where} cannot be imported.",
                at=at,
                got=f"{type(error).__name__}: {error}",
                expected="a Python file or package that imports",
                fix="mend it, or install what it needs",
            )
        ) from error
    return module


def _existing(path: Path, at: str) -> Path:
    if path.exists():
        return path
    folder = path.parent
    beside = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    close = nearest(path.name, beside)
    raise RecipeError(
        Fault(
            what=f"There is no file {path}.",
            at=at,
            got=str(path),
            expected="a path relative to the recipe",
            fix=f"did you mean {close!r}?" if close else "check the path",
        )
    )


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
                expected="a state dict of this very network, in safetensors or readable with "
                "torch.load(weights_only=True)",
                fix="save them with safetensors.torch.save_file(module.state_dict(), path)",
            )
        ) from error


class Exportable(nn.Module):
    """A copy of a network's module, in eval mode on the CPU, that takes and returns named tensors.

    What converters are given: inputs by keyword, outputs as a dict in the signature's order.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module = copy.deepcopy(network.module).eval().cpu()
        self.names = tuple(network.signature.output_names)

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        outputs = call(self.module, inputs)
        return {name: outputs[name] for name in self.names}
