"""Checkpoints: atomic, checked, the last two kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgekd.errors import RecipeError
from edgekd.training.checkpoint import load_checkpoint, previous, save_checkpoint
from tests.support.project import assert_five_parts


def test_what_is_saved_is_loaded_and_the_one_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    assert load_checkpoint(path) is None
    for number in range(3):
        save_checkpoint(path, {"weights": torch.full((4,), float(number))})
    assert load_checkpoint(path)["weights"].tolist() == [2.0] * 4
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "checkpoint-previous.pt", "checkpoint.pt"
    ]  # fmt: skip
    path.unlink()
    assert load_checkpoint(path)["weights"].tolist() == [1.0] * 4


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty"])
def test_a_harmed_checkpoint_is_reported_and_the_earlier_one_is_usable(
    tmp_path: Path, harm: str
) -> None:
    path = tmp_path / "checkpoint.pt"
    for number in range(2):
        save_checkpoint(path, {"weights": torch.full((4096,), float(number))})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(
        {"flip": bytes(content), "truncate": bytes(content[:-100]), "empty": b""}[harm]
    )
    with pytest.raises(RecipeError, match="cannot be read") as caught:
        load_checkpoint(path)
    assert_five_parts(str(caught.value))
    assert f"delete {path} to continue from {previous(path).name}" in str(caught.value)
    path.unlink()
    assert load_checkpoint(path)["weights"][0] == 0.0


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from edgekd.training.checkpoint import load_checkpoint, save_checkpoint
from edgekd.errors import RecipeError

path = Path(sys.argv[1])
save_checkpoint(path, {"weights": torch.zeros(10)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save_checkpoint(path, {"weights": torch.zeros(100_000)})
except RecipeError as error:
    print(error)
print("earlier:", len(load_checkpoint(path)["weights"]))
"""


def test_a_full_disk_is_reported_and_leaves_the_earlier_one(tmp_path: Path) -> None:
    """A limit on the size of files fails the write as a full disk does, in the same call."""
    path = tmp_path / "checkpoint.pt"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True
    )
    assert "A checkpoint cannot be written." in done.stdout
    assert "earlier: 10" in done.stdout
    assert_five_parts(done.stdout)
    assert list(tmp_path.iterdir()) == [path]
