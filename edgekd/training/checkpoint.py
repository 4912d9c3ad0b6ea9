"""Checkpoints of a training run: written atomically, verified, the last two kept."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from edgekd.errors import Fault, RecipeError
from edgekd.system.files import written_atomically


def previous(path: Path) -> Path:
    """The path of the checkpoint before the one in `path`."""
    return path.with_name(f"{path.stem}-previous{path.suffix}")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` to `path` atomically; the file that was there becomes `previous(path)`.

    The file begins with the sha256 of the rest, which has torch's own format.

    Raises:
        RecipeError: it cannot be written, for instance to a full disk; the earlier checkpoint is
            unchanged.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    try:
        with written_atomically(path) as draft:
            draft.write_bytes(hashlib.sha256(payload).digest() + payload)
            if path.exists():
                path.replace(previous(path))
    except OSError as error:
        earlier = path if path.exists() else previous(path)
        raise RecipeError(
            Fault(
                what="A checkpoint cannot be written.",
                at=str(path),
                got=f"{type(error).__name__}: {error}",
                expected=f"{len(payload) + 32:,} bytes of free space",
                fix=f"free some space and run again: it continues from {earlier}"
                if earlier.exists()
                else "free some space and run again",
            )
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state in `path`, or in `previous(path)` if only that file exists, or None.

    Raises:
        RecipeError: the file is damaged; without it, training continues from the one before.
    """
    found = next((entry for entry in (path, previous(path)) if entry.exists()), None)
    if found is None:
        return None
    try:
        content = found.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise ValueError("its sha256 does not match its contents")
        state: dict[str, Any] = torch.load(
            io.BytesIO(content[32:]), map_location="cpu", weights_only=True
        )
    except Exception as error:
        raise unreadable(found, error) from error
    return state


def unreadable(path: Path, error: Exception) -> RecipeError:
    """The fault of a checkpoint that cannot be used."""
    earlier = previous(path)
    continues = earlier != path and earlier.exists()
    then = f"continue from {earlier.name}" if continues else "train from the start"
    return RecipeError(
        Fault(
            what="The checkpoint of an interrupted training cannot be read.",
            at=str(path),
            got=f"{type(error).__name__}: {error}",
            expected="a checkpoint that this training wrote",
            fix=f"delete {path} to {then}",
        )
    )
