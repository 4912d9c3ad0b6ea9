"""The cache of a teacher's outputs: what it stores, how it continues and what it reports."""

from __future__ import annotations

import json
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

from edgekd.distillation import output_cache as teacher_outputs
from edgekd.distillation.output_cache import TeacherOutputs
from edgekd.errors import RecipeError

FORMATS = ["int8", "top-k", "fp16", "fp32"]


def logits(count: int, *shape: int, seed: int = 0) -> Tensor:
    """Peaked, as those of a trained teacher."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, *shape, generator=generator)
    return z + 12.0 * (z == z.amax(-1, keepdim=True))


def cache(
    z: Tensor, folder: Path | None = None, asked: list[int] | None = None, **more: Any
) -> TeacherOutputs:
    def compute(view: int, ids: Tensor) -> Tensor:
        if asked is not None:
            asked.extend(ids.tolist())
        return z[ids] + view

    return TeacherOutputs(len(z), compute, folder, **more)


def all_of(outputs: TeacherOutputs, view: int = 0) -> Tensor:
    return outputs.rows(view, torch.arange(outputs.count))


def shards(folder: Path) -> dict[str, bytes]:
    found = sorted(folder.glob("view-*/*.npy"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches and shards, so that a thousand samples have several."""
    monkeypatch.setattr(teacher_outputs, "BATCH_SIZE", 64)
    monkeypatch.setattr(teacher_outputs, "SHARD_BYTES", 4096)


@pytest.mark.parametrize("classes", [1, 10, 1000])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_int8_is_off_by_at_most_half_a_step_of_its_row(classes: int, scale: float) -> None:
    z = logits(300, classes) * scale + scale
    z[7] = 3.0  # A row of one value has no step.
    found = all_of(cache(z))
    half_step = (z.double().amax(1) - z.double().amin(1)) / 510
    # The step, its product with a code and the sum are each rounded to float32.
    rounding = 3 * torch.finfo(torch.float32).eps * z.double().abs().amax(1)
    assert ((found.double() - z.double()).abs().amax(1) <= half_step + rounding).all()
    assert torch.equal(found[7], z[7])


def test_float32_is_exact_and_float16_is_rounded() -> None:
    z = logits(300, 10)
    assert torch.equal(all_of(cache(z, format="fp32")), z)
    assert torch.equal(all_of(cache(z, format="fp16")), z.half().float())


@pytest.mark.parametrize("format", FORMATS)
def test_half_precision_outputs_come_back_in_full(format: Any) -> None:
    z = logits(100, 10).bfloat16()
    assert torch.equal(all_of(cache(z, format=format)), all_of(cache(z.float(), format=format)))


@pytest.mark.parametrize(("format", "value"), [("fp16", 70_000.0), ("int8", -3.0e38)])
def test_a_value_too_large_for_the_format_is_reported_and_never_infinite(
    format: Any, value: float
) -> None:
    z = logits(300, 10)
    z[70, 3] = value
    with pytest.raises(RecipeError, match="too large for the cache") as caught:
        all_of(cache(z, format=format))
    assert caught.value.faults[0].at == "view 0, samples [70]"
    assert caught.value.faults[0].fix == 'set cache_format = "fp32"'
    assert torch.equal(all_of(cache(z, format="fp32")), z)


@pytest.mark.parametrize("classes", [20, 3000, 70_000])
def test_top_k_keeps_the_largest_exactly_and_the_rest_s_probability(classes: int) -> None:
    z = logits(20, classes)
    found = all_of(cache(z, format="top-k", top_k=8))
    best = z.topk(8, dim=1)
    assert torch.equal(found.topk(8, dim=1).indices.sort(1)[0], best.indices.sort(1)[0])
    assert torch.equal(found.gather(1, best.indices), best.values)
    # One value in float32 stands for the rest: its rounding is that of the sum of exponentials.
    close = 2 * torch.finfo(torch.float32).eps * float(z.abs().max())
    total, theirs = found.double().logsumexp(1), z.double().logsumexp(1)
    assert torch.allclose(total, theirs, rtol=0, atol=close)
    rest = found.scatter(1, best.indices, torch.inf).amin(1)
    assert torch.equal(rest, found.scatter(1, best.indices, -torch.inf).amax(1))
    assert (rest <= best.values[:, -1]).all()


def test_top_k_of_equal_values_and_of_few_classes_is_exact() -> None:
    flat, few = torch.full((70, 100), 1e-20), logits(70, 5)
    assert torch.equal(all_of(cache(flat, format="top-k", top_k=3)), flat)
    assert torch.equal(all_of(cache(few, format="top-k", top_k=16)), few)


@pytest.mark.parametrize("shape", [(), (7,), (4, 6), (2, 3, 5)])
@pytest.mark.parametrize("format", FORMATS)
def test_outputs_of_any_shape_come_back_in_it(shape: tuple[int, ...], format: Any) -> None:
    z = torch.randn(130, *shape, generator=torch.Generator().manual_seed(1))
    ours = cache(z, format=format, top_k=3)
    found = ours.rows(0, torch.tensor([129, 0, 64]))
    assert found.shape == (3, *shape)
    assert ours.rows(0, torch.tensor([], dtype=torch.int64)).shape == (0, *shape)
    # Each vector of the last axis is kept by itself.
    vectors = cache(z.reshape(-1, shape[-1] if shape else 1), format=format, top_k=3)
    assert torch.equal(all_of(ours).flatten(), all_of(vectors).flatten())


@pytest.mark.parametrize("shape", [(40,), (3, 40)])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kept_in", ["memory", "folder"])
def test_gathered_rows_are_those_of_a_decoded_view(
    format: Any,
    shape: tuple[int, ...],
    kept_in: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    z, ids = logits(500, *shape), torch.randperm(500, generator=torch.Generator().manual_seed(2))
    folder = tmp_path if kept_in == "folder" else None
    decoded = cache(z, folder, format=format).rows(0, ids)
    monkeypatch.setattr(teacher_outputs, "DECODED_BYTES", 0)
    gathered = cache(z, folder, format=format)
    assert torch.equal(decoded, gathered.rows(0, ids))
    assert torch.equal(decoded[3:5], gathered.rows(0, ids[3:5]))
    assert len(gathered.rows(0, ids[:0])) == 0


@pytest.mark.parametrize("decoded", [2**28, 0])
def test_a_view_is_computed_once_and_views_are_apart(
    decoded: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_outputs, "DECODED_BYTES", decoded)
    z, asked = logits(200, 10), list[int]()
    first = cache(z, tmp_path, asked, format="fp32")
    ids = torch.tensor([5, 199])
    for view in (0, 3, 0, 3, 3):
        assert torch.equal(first.rows(view, ids), z[ids] + view)
        assert {opened for opened, _ in first.shards} == {view}, "each map holds a descriptor"
    assert sorted(asked) == sorted([*range(200), *range(200)])
    again = cache(z, tmp_path, asked, format="fp32")
    assert torch.equal(again.rows(3, ids), z[ids] + 3)
    assert len(asked) == 400


def test_a_large_view_has_larger_shards_not_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = logits(1000, 10)
    all_of(cache(z, tmp_path / "many"))
    monkeypatch.setattr(teacher_outputs, "MOST_SHARDS", 3)
    found = all_of(cache(z, tmp_path / "few"))
    assert len(shards(tmp_path / "many")) == 6
    assert len(shards(tmp_path / "few")) == 3
    assert torch.equal(found, all_of(cache(z)))


def test_a_build_that_failed_goes_on_and_asks_for_the_rest_alone(tmp_path: Path) -> None:
    z, asked = logits(1000, 10), list[int]()

    def compute(view: int, ids: Tensor) -> Tensor:  # noqa: ARG001
        if int(ids[0]) == 8 * 64:
            raise KeyboardInterrupt
        return z[ids]

    with pytest.raises(KeyboardInterrupt):
        all_of(TeacherOutputs(1000, compute, tmp_path / "failed"))
    kept = len(shards(tmp_path / "failed")) * 3 * 64
    assert kept == 2 * 3 * 64
    assert torch.equal(all_of(cache(z, tmp_path / "failed", asked)), all_of(cache(z)))
    assert asked == list(range(kept, 1000))
    all_of(cache(z, tmp_path / "whole"))
    assert shards(tmp_path / "failed") == shards(tmp_path / "whole")


BUILD = """
    import os, resource, signal, sys, torch
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from tests.unit.distillation import test_output_cache as here
    here.teacher_outputs.BATCH_SIZE, here.teacher_outputs.SHARD_BYTES = 64, 4096
    z, batches = here.logits(1000, 10), 0

    def compute(view, ids):
        global batches
        batches += 1
        if batches == 9:
            {stop}
        return z[ids]

    here.TeacherOutputs(1000, compute, Path({folder!r})).rows(0, torch.arange(3))
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
DISK_FULL = (
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
)


@pytest.mark.parametrize("stop", [KILLED, DISK_FULL], ids=["killed", "disk full"])
def test_a_process_that_ended_in_its_build_is_gone_on_from(stop: str, tmp_path: Path) -> None:
    folder, z, asked = tmp_path / "ended", logits(1000, 10), list[int]()
    tests = str(Path(__file__).parents[3])
    code = textwrap.dedent(BUILD).format(tests=tests, folder=str(folder), stop=stop)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if stop == KILLED:
        assert done.returncode == -9, done.stderr
    else:
        assert "A teacher's outputs cannot be written." in done.stderr
        assert "File too large" in done.stderr
        assert "it continues after the 2 shards on disk" in done.stderr
    assert len(shards(folder)) == 2
    found = all_of(cache(z, folder, asked))
    assert asked == list(range(2 * 3 * 64, 1000))
    assert torch.equal(found, all_of(cache(z, tmp_path / "whole")))
    assert shards(folder) == shards(tmp_path / "whole")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a bit flipped": _flip,
    "its end cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "emptied": lambda path: path.write_bytes(b""),
    "digest gone": lambda path: path.with_suffix(".sha256").unlink(),
    "digest flipped": lambda path: _flip(path.with_suffix(".sha256")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("decoded", [2**28, 0])
def test_a_damaged_shard_is_reported_and_only_it_is_computed_again(
    damage: Callable[[Path], Any], decoded: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_outputs, "DECODED_BYTES", decoded)
    z, asked, lines = logits(500, 10), list[int](), list[str]()
    before = all_of(cache(z, tmp_path))
    intact = shards(tmp_path)
    damage(tmp_path / "view-0000/00001.npy")
    assert torch.equal(all_of(cache(z, tmp_path, asked, report=lines.append)), before)
    assert asked == list(range(192, 384))
    assert lines == [
        "the stored outputs of the teacher do not match their digest (view-0000/00001.npy); they "
        "are computed again"
    ]
    assert shards(tmp_path) == intact


def test_shards_that_were_swapped_are_computed_again(tmp_path: Path) -> None:
    z, lines = logits(500, 10), list[str]()
    before = all_of(cache(z, tmp_path))
    for suffix in (".npy", ".sha256"):
        paths = [tmp_path / f"view-0000/0000{number}{suffix}" for number in (0, 1)]
        contents = [path.read_bytes() for path in paths]
        for path, content in zip(paths, reversed(contents), strict=True):
            path.write_bytes(content)
    assert torch.equal(all_of(cache(z, tmp_path, report=lines.append)), before)
    assert len(lines) == 2


def test_a_shard_that_changes_during_a_run_is_an_error(tmp_path: Path) -> None:
    ours = cache(logits(500, 10), tmp_path, share=(0, 2), barrier=lambda: None)
    with pytest.raises(RecipeError, match="is damaged") as caught:
        all_of(ours)  # The shards of the other process are not there.
    assert caught.value.faults[0].fix == "run again: it is computed again"


@pytest.mark.parametrize(
    "meta",
    ["", "{", "[]", "{}", '{"shape": 3}', '{"shape": ["a"]}', '{"shape": [0, 3]}', "[" * 100_000],
)
def test_a_damaged_description_of_the_shards_is_written_again(meta: str, tmp_path: Path) -> None:
    z, lines = logits(100, 4, 6), list[str]()
    before = all_of(cache(z, tmp_path, format="fp32"))
    path = tmp_path / "meta.json"
    intact = path.read_text()
    for text in (meta, json.dumps({**json.loads(intact), "shape": [6, 4]})):
        path.write_text(text)
        again = cache(z, tmp_path, format="fp32", report=lines.append)
        assert torch.equal(all_of(again), before)
        assert path.read_text() == intact
    assert ["(meta.json)" in line for line in lines] == [True, True]


@pytest.mark.parametrize(
    "ours",
    [
        {"format": "fp16"},
        {"format": "top-k", "top_k": 5},
        {"format": "top-k", "top_k": 4, "count": 99},
    ],
    ids=["format", "k", "count"],
)
def test_a_cache_of_other_settings_is_computed_again(ours: dict[str, Any], tmp_path: Path) -> None:
    z = logits(100, 10)
    all_of(cache(z, tmp_path, format="top-k", top_k=4))
    z = z[: ours.pop("count", 100)]
    assert torch.equal(all_of(cache(z, tmp_path, **ours)), all_of(cache(z, **ours)))


@pytest.mark.parametrize("format", FORMATS)
def test_an_output_that_is_not_finite_names_its_samples(format: Any, tmp_path: Path) -> None:
    z = logits(300, 10)
    z[100, 2], z[120, 0] = float("nan"), float("inf")
    with pytest.raises(RecipeError, match="not finite numbers") as caught:
        all_of(cache(z, tmp_path, format=format), view=2)
    assert caught.value.faults[0].at == "view 2, samples [100, 120]"
    assert caught.value.faults[0].got == "nan"
    z[128:] = float("-inf")
    z[:128] = 0.0
    with pytest.raises(RecipeError, match=r"128, 129, .*135\] and 56 more"):
        all_of(cache(z, tmp_path, format=format), view=2)


def test_outputs_that_change_their_shape_are_reported() -> None:
    def compute(view: int, ids: Tensor) -> Tensor:  # noqa: ARG001
        return torch.zeros(len(ids), 3 if int(ids[0]) == 0 else 4)

    with pytest.raises(RecipeError, match="differ in shape") as caught:
        all_of(TeacherOutputs(200, compute, None))
    assert caught.value.faults[0].at == "view 0, samples 64 to 127"


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    z, meet = logits(1000, 10), threading.Barrier(2, timeout=60)
    asked: list[list[int]] = [[], []]
    found: list[Tensor] = [torch.empty(0)] * 2

    def build(number: int) -> None:
        ours = cache(z, tmp_path, asked[number], share=(number, 2), barrier=lambda: meet.wait())
        found[number] = all_of(ours)

    threads = [threading.Thread(target=build, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(found[0], found[1])
    # Besides its shards of 192 samples, each may ask for the first batch to learn the shape.
    shares = [[i for i in range(1000) if i // 192 % 2 == number] for number in range(2)]
    assert sorted(asked[0]) == shares[0]
    assert set(asked[1]) - set(range(64)) == set(shares[1])
    all_of(cache(z, tmp_path / "alone"))
    assert shards(tmp_path) == shards(tmp_path / "alone")


def test_what_cannot_be_asked_for_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k is 0"):
        cache(logits(3, 3), top_k=0)
    with pytest.raises(ValueError, match="share what they compute in a folder"):
        cache(logits(3, 3), share=(1, 2))


def test_progress_is_reported(tmp_path: Path) -> None:
    calls: list[tuple[int, int, int]] = []
    all_of(cache(logits(1000, 10), tmp_path, progress=lambda *args: calls.append(args)), view=2)
    assert calls == [(2, done, 1000) for done in (192, 384, 576, 768, 960, 1000)]


@pytest.mark.parametrize(
    ("format", "row_bytes"), [("int8", 108), ("top-k", 28), ("fp16", 200), ("fp32", 400)]
)
def test_a_sample_takes_as_many_bytes_as_it_is_said(
    format: Any, row_bytes: int, tmp_path: Path
) -> None:
    ours = cache(logits(64, 100), tmp_path, format=format, top_k=4)
    all_of(ours)
    assert ours.layout.row_bytes == row_bytes
    header = 128  # Of a .npy file, version 1.0.
    assert [len(content) for content in shards(tmp_path).values()] == [64 * row_bytes + header]
