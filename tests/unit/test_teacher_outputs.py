"""The cache of a teacher's outputs: what it keeps, how it goes on, and what it tells."""

from __future__ import annotations

import resource
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgekd import teacher_outputs
from edgekd.errors import RecipeError
from edgekd.teacher_outputs import TeacherOutputs


def logits(count: int, *shape: int, seed: int = 0) -> Tensor:
    """Peaked, as those of a trained teacher."""
    dice = torch.Generator().manual_seed(seed)
    z = torch.randn(count, *shape, generator=dice)
    return z + 12.0 * (z == z.amax(-1, keepdim=True))


def cache(
    z: Tensor, folder: Path | None = None, asked: list[int] | None = None, **more: Any
) -> TeacherOutputs:
    def compute(view: int, ids: Tensor) -> Tensor:
        if asked is not None:
            asked.extend(ids.tolist())
        return z[ids] + view

    return TeacherOutputs(len(z), compute, folder, **more)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches and shards, so that a thousand samples have several."""
    monkeypatch.setattr(teacher_outputs, "BATCH_SIZE", 64)
    monkeypatch.setattr(teacher_outputs, "SHARD_BYTES", 4096)


@pytest.mark.parametrize("classes", [1, 10, 1000])
@pytest.mark.parametrize("kept_in", ["memory", "folder"])
def test_int8_is_off_by_at_most_half_a_step_of_its_row(
    classes: int, kept_in: str, tmp_path: Path
) -> None:
    z = logits(300, classes)
    found = cache(z, tmp_path if kept_in == "folder" else None).rows(0, torch.arange(300))
    step = (z.amax(1) - z.amin(1)) / 255
    assert ((found - z).abs().amax(1) <= step / 2 * 1.001 + 1e-6).all()


def test_float32_is_exact_and_float16_is_rounded() -> None:
    z = logits(300, 10)
    ids = torch.arange(300)
    assert torch.equal(cache(z, format="fp32").rows(0, ids), z)
    assert torch.equal(cache(z, format="fp16").rows(0, ids), z.half().float())


def test_a_value_beyond_float16_is_told_and_never_infinite() -> None:
    z = logits(300, 10)
    z[70, 3] = 70_000.0
    with pytest.raises(RecipeError, match="too large for the cache") as caught:
        cache(z, format="fp16").rows(0, torch.arange(4))
    assert "samples [70]" in caught.value.faults[0].at
    assert float(cache(z).rows(0, torch.tensor([70]))[0, 3]) == pytest.approx(70_000)


@pytest.mark.parametrize("classes", [20, 3000, 70_000])
def test_top_k_keeps_the_largest_exactly_and_the_rest_s_probability(classes: int) -> None:
    z = logits(65, classes)
    found = cache(z, format="top-k", top_k=8).rows(0, torch.arange(65))
    best = z.topk(8, dim=1)
    assert torch.equal(found.topk(8, dim=1).indices.sort(1)[0], best.indices.sort(1)[0])
    assert torch.equal(found.gather(1, best.indices), best.values)
    ours, theirs = (each.double().softmax(1) for each in (found, z))
    picked = best.indices
    assert torch.allclose(ours.gather(1, picked), theirs.gather(1, picked), rtol=1e-5)


def test_top_k_of_fewer_classes_keeps_all() -> None:
    z = logits(70, 5)
    assert torch.equal(cache(z, format="top-k", top_k=16).rows(0, torch.arange(70)), z)


@pytest.mark.parametrize("shape", [(), (7,), (4, 6), (2, 3, 5)])
@pytest.mark.parametrize("format", ["int8", "top-k", "fp16", "fp32"])
def test_outputs_of_any_shape_come_back_in_it(shape: tuple[int, ...], format: Any) -> None:
    dice = torch.Generator().manual_seed(1)
    z = torch.randn(130, *shape, generator=dice)
    found = cache(z, format=format, top_k=3).rows(0, torch.tensor([129, 0, 64]))
    assert found.shape == (3, *shape)
    if format == "fp32":
        assert torch.equal(found, z[[129, 0, 64]])


@pytest.mark.parametrize("format", ["int8", "top-k", "fp16", "fp32"])
def test_rows_gathered_from_disk_are_those_of_a_decoded_view(
    format: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    z, ids = logits(500, 40), torch.randperm(500)
    decoded = cache(z, tmp_path, format=format).rows(0, ids)
    monkeypatch.setattr(teacher_outputs, "DECODED_BYTES", 0)
    gathered = cache(z, tmp_path, format=format).rows(0, ids)
    assert torch.equal(decoded, gathered)


def test_a_view_is_computed_once_and_views_are_apart(tmp_path: Path) -> None:
    z, asked = logits(200, 10), list[int]()
    first = cache(z, tmp_path, asked, format="fp32")
    ids = torch.tensor([5, 199])
    assert torch.equal(first.rows(0, ids), z[ids])
    assert torch.equal(first.rows(3, ids), z[ids] + 3)
    assert torch.equal(first.rows(0, ids), z[ids])
    assert sorted(asked) == sorted([*range(200), *range(200)])
    again = cache(z, tmp_path, asked, format="fp32")
    assert torch.equal(again.rows(3, ids), z[ids] + 3)
    assert len(asked) == 400


BUILD = """
    import os, signal, sys, torch
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from unit import test_teacher_outputs as here
    here.teacher_outputs.BATCH_SIZE, here.teacher_outputs.SHARD_BYTES = 64, 4096
    z, batches = here.logits(1000, 10), 0

    def compute(view, ids):
        global batches
        batches += 1
        if batches == {die}:
            os.kill(os.getpid(), signal.SIGKILL)
        return z[ids]

    here.TeacherOutputs(1000, compute, Path({folder!r})).rows(0, torch.arange(3))
    print(batches)
"""


def built(folder: Path, die: int) -> subprocess.CompletedProcess[str]:
    tests = str(Path(__file__).parent.parent)
    code = textwrap.dedent(BUILD).format(tests=tests, folder=str(folder), die=die)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_build_killed_by_sigkill_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert built(killed, die=9).returncode == -9
    done = len(list(killed.rglob("*.npy")))
    assert done > 0
    went_on = built(killed, die=0)
    assert went_on.returncode == 0, went_on.stderr
    assert int(built(whole, die=0).stdout) > int(went_on.stdout), "what was there is not computed"
    for path in whole.rglob("*.npy"):
        assert path.read_bytes() == (killed / path.relative_to(whole)).read_bytes()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [_flip, lambda path: path.write_bytes(path.read_bytes()[:-9])], ids=["flip", "cut"]
)
def test_a_damaged_shard_is_told_and_deleting_it_mends(
    damage: Callable[[Path], Any], tmp_path: Path
) -> None:
    z, ids = logits(500, 10), torch.arange(500)
    before = cache(z, tmp_path).rows(0, ids)
    path = sorted(tmp_path.rglob("*.npy"))[1]
    damage(path)
    with pytest.raises(RecipeError, match="is not what was written") as caught:
        cache(z, tmp_path).rows(0, ids)
    assert f"delete {path}:" in caught.value.faults[0].fix
    path.unlink()
    assert torch.equal(cache(z, tmp_path).rows(0, ids), before)


@pytest.mark.parametrize("meta", ["{", "{}", '{"shape": [10], "version": 0}'])
def test_a_folder_of_something_else_is_told(meta: str, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(meta)
    with pytest.raises(RecipeError, match="is not what was written") as caught:
        cache(logits(100, 10), tmp_path).rows(0, torch.arange(3))
    assert f"delete {tmp_path}:" in caught.value.faults[0].fix


def test_a_full_disk_is_told_and_what_is_there_is_used(tmp_path: Path) -> None:
    z, asked = logits(1000, 10), list[int]()
    cache(z[:1], tmp_path / "meta").rows(0, torch.arange(1))  # Imports what a write needs.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(RecipeError, match="cannot be written") as caught:
            cache(z, tmp_path, asked).rows(0, torch.arange(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, kept)
    assert "File too large" in caught.value.faults[0].got
    assert torch.equal(
        cache(z, tmp_path).rows(0, torch.arange(3)), cache(z).rows(0, torch.arange(3))
    )


def test_an_output_that_is_not_finite_names_its_samples() -> None:
    z = logits(300, 10)
    z[100, 2], z[120, 0] = float("nan"), float("inf")
    with pytest.raises(RecipeError, match="not finite numbers") as caught:
        cache(z).rows(2, torch.arange(3))
    assert caught.value.faults[0].at == "view 2, samples [100, 120]"


def test_outputs_that_change_their_shape_are_told() -> None:
    def compute(view: int, ids: Tensor) -> Tensor:  # noqa: ARG001
        return torch.zeros(len(ids), 3 if int(ids[0]) == 0 else 4)

    with pytest.raises(RecipeError, match="change their shape"):
        TeacherOutputs(200, compute, None).rows(0, torch.arange(3))


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    z, meet = logits(1000, 10), threading.Barrier(2)
    asked: list[list[int]] = [[], []]
    found: list[Tensor] = [torch.empty(0)] * 2

    def build(number: int) -> None:
        ours = cache(z, tmp_path, asked[number], share=(number, 2), barrier=lambda: meet.wait())
        found[number] = ours.rows(0, torch.arange(1000))

    threads = [threading.Thread(target=build, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], cache(z).rows(0, torch.arange(1000)))
    assert set(asked[0]) | set(asked[1]) == set(range(1000))
    assert len(asked[0]) < 800
    assert len(asked[1]) < 800


def test_how_far_it_is_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int, int]] = []
    cache(logits(1000, 10), tmp_path, tell=lambda *words: told.append(words)).rows(
        2, torch.arange(3)
    )
    assert told[-1] == (2, 1000, 1000)
    assert len(told) > 2


@pytest.mark.parametrize(("format", "bytes_"), [("int8", 108), ("top-k", 28), ("fp16", 200)])
def test_a_sample_takes_as_many_bytes_as_it_is_said(
    format: Any, bytes_: int, tmp_path: Path
) -> None:
    ours = cache(logits(64, 100), tmp_path, format=format, top_k=4)
    ours.rows(0, torch.arange(3))
    assert ours.row_bytes == bytes_
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.npy"))
    assert size == 64 * bytes_ + 128 * len(list(tmp_path.rglob("*.npy")))
