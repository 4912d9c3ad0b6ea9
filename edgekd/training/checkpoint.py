"""The state of an interrupted training on disk: written atomically, checked, the last two kept."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from edgekd.errors import Fault, RecipeError
from edgekd.system.files import written_atomically


def previous(path: Path) -> Path:
    """Where the checkpoint before the one in `path` is kept."""
    return path.with_name(f"{path.stem}-previous{path.suffix}")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` to `path`, whole or not at all; what was there becomes `previous(path)`.

    The file is the sha256 of the rest, and the rest is torch's own format.

    Raises:
        RecipeError: it cannot be written, for instance to a full disk; the earlier one is as it
            was.
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
                expected=f"room for {len(payload) + 32:,} bytes",
                fix=f"make room and run again: it goes on from {earlier}"
                if earlier.exists()
                else "make room and run again",
            )
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state in `path`, or in `previous(path)` where only that one is there, or None.

    Raises:
        RecipeError: it is not what was written; deleting it leaves the one before to go on from.
    """
    found = next((entry for entry in (path, previous(path)) if entry.exists()), None)
    if found is None:
        return None
    try:
        content = found.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise ValueError("its contents are not those that were written")
        state: dict[str, Any] = torch.load(
            io.BytesIO(content[32:]), map_location="cpu", weights_only=True
        )
    except Exception as error:
        raise unreadable(found, error) from error
    return state


def unreadable(path: Path, error: Exception) -> RecipeError:
    """The fault of a checkpoint that cannot be used."""
    back = previous(path)
    where = f"go on from {back.name}" if back != path and back.exists() else "train from the start"
    return RecipeError(
        Fault(
            what="The checkpoint of an interrupted training cannot be read.",
            at=str(path),
            got=f"{type(error).__name__}: {error}",
            expected="the checkpoint this very training wrote",
            fix=f"delete {path} to {where}",
        )
    )
