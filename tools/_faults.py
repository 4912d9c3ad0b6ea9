"""The table of injected faults: how each is set up, and what must come of it."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from kill_campaign import recipe


@dataclass
class Case:
    """A project of its own for one fault.

    Attributes:
        folder: the project, with `recipe.toml`, and with `model.onnx`, `samples.safetensors` and
            `weights.safetensors` of an undisturbed run.
        out: the folder of runs, with the store of that run.
        environment: is added to that of the command.
    """

    folder: Path
    out: Path
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, document: dict[str, Any]) -> None:
        (self.folder / "recipe.toml").write_text(tomli_w.dumps(document), encoding="utf-8")

    def stored(self, pattern: str) -> list[Path]:
        """The files in the store that match `pattern`."""
        return [p for p in self.out.glob(f"campaign/store/{pattern}") if p.is_file()]


SetUp = Callable[[Case], list[str]]


@dataclass(frozen=True)
class InjectedFault:
    """A fault: `set_up` prepares it and returns the arguments of the command.

    Attributes:
        codes: the exit codes that are right.
        contains: a part of the message.
        limit_s: the time limit on an idle machine of two cores.
        same: whether the results must be those of the undisturbed run.
    """

    set_up: SetUp
    codes: tuple[int, ...]
    contains: str = ""
    limit_s: float = 60.0
    same: bool = False


def _benchmark(mode: str) -> SetUp:
    return lambda case: [
        "benchmark", str(case.folder / "model.onnx"), "--device", f"faulty://{mode}", "--quick",
    ]  # fmt: skip


def _verify(mode: str) -> SetUp:
    return lambda case: [
        "verify", str(case.folder / "model.onnx"), "--against",
        f"{case.folder / 'models.py'}:student", "--weights",
        str(case.folder / "weights.safetensors"), "--samples",
        str(case.folder / "samples.safetensors"), "--device", f"faulty://{mode}",
    ]  # fmt: skip


def _run(case: Case, *more: str) -> list[str]:
    return ["run", str(case.folder / "recipe.toml"), "--out", str(case.out), *more]


def _row(mode: str) -> SetUp:
    """A run with a good target beside one whose device is at fault."""

    def set_up(case: Case) -> list[str]:
        document = recipe()
        profile = {
            "format": "onnx", "schemes": ["fp32"], "machine": "x86_64", "connection": "ssh",
            "device": f"faulty://{mode}",
        }  # fmt: skip
        (case.folder / "board.toml").write_text(tomli_w.dumps(profile), encoding="utf-8")
        document["targets"].append({"name": "board.toml", "required": False})
        case.write(document)
        return _run(case)

    return set_up


def _convert(mode: str) -> SetUp:
    def set_up(case: Case) -> list[str]:
        case.environment["FAULTY"] = mode
        profile = {
            "format": "faulty", "schemes": ["fp32"], "machine": "x86_64", "connection": "local",
            "device": "local",
        }  # fmt: skip
        (case.folder / "faulty.toml").write_text(tomli_w.dumps(profile), encoding="utf-8")
        document = recipe()
        document["quantize"] = {"schemes": ["fp32"]}
        document["targets"] = [{"name": "faulty.toml"}]
        document["export"] = {"timeout_s": 6.0}
        case.write(document)
        return _run(case, "--until", "export")

    return set_up


def _damage(pattern: str, change: Callable[[Path], object], *more: str) -> SetUp:
    """Change the first stored file that matches `pattern`, then run."""

    def set_up(case: Case) -> list[str]:
        files = sorted(case.stored(pattern))
        if not files:
            raise LookupError(f"the store has no {pattern}")
        change(files[0])
        return _run(case, *more)

    return set_up


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _garbage(path: Path) -> None:
    path.write_bytes(b"\xff\xfe{")


def _into_a_file(path: Path) -> None:
    """Put a file in the place of the folder of `path`."""
    shutil.rmtree(path.parent)
    path.parent.write_bytes(b"")


def _into_a_link(path: Path) -> None:
    """Put a link that leads nowhere in the place of the folder of `path`."""
    shutil.rmtree(path.parent)
    path.parent.symlink_to("nowhere")


def _out(name: str, prepare: Callable[[Path], object] = lambda path: None) -> SetUp:  # noqa: ARG005
    def set_up(case: Case) -> list[str]:
        path = Path(name) if name.startswith("/") else case.folder / name
        prepare(path)
        return ["run", str(case.folder / "recipe.toml"), "--out", str(path)]

    return set_up


def _latest(case: Case) -> list[str]:
    latest = case.out / "campaign" / "latest"
    latest.unlink(missing_ok=True)
    latest.mkdir()
    (latest / "mine.txt").write_text("mine")
    return _run(case)


def _limited(limit: str, *more: str) -> SetUp:
    """A run of an empty store under a limit of the shell's `ulimit`."""

    def set_up(case: Case) -> list[str]:
        return ["ulimit", limit, "run", str(case.folder / "recipe.toml"), "--out",
                str(case.folder / "limited"), *more]  # fmt: skip

    return set_up


def _check(text: str | bytes) -> SetUp:
    def set_up(case: Case) -> list[str]:
        data = text.encode() if isinstance(text, str) else text
        (case.folder / "recipe.toml").write_bytes(data)
        return ["check", str(case.folder / "recipe.toml")]

    return set_up


def _url(url: str) -> SetUp:
    return lambda case: ["benchmark", str(case.folder / "model.onnx"), "--device", url, "--quick"]


def _archive(fill: Callable[[zipfile.ZipFile], object]) -> SetUp:
    def set_up(case: Case) -> list[str]:
        path = case.folder / "bundle.zip"
        with zipfile.ZipFile(path, "w") as archive:
            fill(archive)
        return ["bundle", "--check", str(path)]

    return set_up


def _nameless(case: Case) -> list[str]:
    """An archive with an entry whose name reads as nothing: it begins with NUL."""
    path = case.folder / "bundle.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("qq", b"x")
    path.write_bytes(path.read_bytes().replace(b"qq", b"\0\0"))
    return ["bundle", "--check", str(path)]


def _many(archive: zipfile.ZipFile) -> None:
    for number in range(30_000):
        archive.writestr(f"a/{number}", b"")


def _card(document: Any) -> SetUp:
    def set_up(case: Case) -> list[str]:
        (case.folder / "artifact.json").write_text(json.dumps(document))
        return ["benchmark", str(case.folder), "--quick"]

    return set_up


BAD = (5, 6)
"""A converter or runtime failed; or the device has no runtime for the artifact."""
GOOD = (0, 9)

FAULTS: dict[str, InjectedFault] = {
    **{
        f"device {mode}": InjectedFault(_benchmark(mode), BAD)
        for mode in (
            "no-report", "report-is-a-folder", "report-is-a-device", "report-is-a-pipe",
            "huge-report", "empty", "not-json", "truncated", "latin-1", "deep", "digits", "null",
            "list", "text", "another-version", "version-text", "no-version", "no-results",
            "results-list", "results-empty", "result-null", "result-text", "no-blocks",
            "blocks-text", "blocks-empty", "blocks-negative", "blocks-nan", "unknown-outcome",
            "failure-without-detail", "failure-passed", "failure-escapes", "failure-long",
            "raises-os-error", "raises-connection-reset", "raises-value-error", "raises-timeout",
            "raises-called-process",
        )
    },
    # What the figures do not need may be absent: the measurement holds without it.
    **{
        f"device {mode}": InjectedFault(_benchmark(mode), (*GOOD, *BAD))
        for mode in ("no-device", "no-peak-memory", "facts-list", "device-list",
                     "readings-garbage", "peak-text")
    },
    **{
        f"device {mode}": InjectedFault(_verify(mode), (5, 6, 7))
        for mode in ("outputs-missing", "outputs-truncated", "outputs-empty", "outputs-shape",
                     "outputs-nan", "outputs-objects", "outputs-text")
    },
    # The run fails because of the board, but the other target ships.
    "target beside a bad device: not-json": InjectedFault(
        _row("not-json"), BAD, "bundle for the app build"),
    "target beside a bad device: raises": InjectedFault(
        _row("raises-os-error"), (*GOOD, *BAD), "bundle for the app build"),
    **{
        f"converter {mode}": InjectedFault(_convert(mode), (5,), limit_s=40.0)
        for mode in (
            "raises", "raises-empty", "exits", "exits-silently", "aborts", "segfaults", "killed",
            "recursion", "memory", "floods", "floods-and-hangs", "hangs", "hangs-deaf",
            "leaves-a-child", "writes-nothing", "writes-a-folder", "writes-empty",
        )
    },
    "store flipped weights": InjectedFault(
        _damage("distill/*/weights.safetensors", _flip), GOOD, "does not match", same=True),
    "store truncated weights": InjectedFault(
        _damage("train/*/weights.safetensors", _truncate), GOOD, "does not match", same=True),
    "store deleted weights": InjectedFault(
        _damage("distill/*/weights.safetensors", Path.unlink), GOOD, "does not match", same=True),
    "store deleted table": InjectedFault(
        _damage("distill/*/digests.json", Path.unlink), GOOD, "does not match", same=True),
    "store garbage table": InjectedFault(
        _damage("export/*/digests.json", _garbage), GOOD, "does not match", same=True),
    "store flipped model": InjectedFault(
        _damage("export/*/model.onnx", _flip), GOOD, "does not match", same=True),
    "store deleted calibration": InjectedFault(
        _damage("quantize/*/calibration.safetensors", Path.unlink), GOOD, "does not match",
        same=True),
    "store truncated measurement": InjectedFault(
        _damage("benchmark/*/fp32.json", _truncate), GOOD, "does not match", same=True),
    "store flipped teacher outputs": InjectedFault(
        _damage("teacher_outputs/*/*/*/*.npy", _flip, "--set", "distill.epochs=2"), GOOD),
    "store garbage maker": InjectedFault(_damage("edgekd.json", _garbage), GOOD, same=True),
    "store file in place of a result": InjectedFault(
        _damage("train/*/weights.safetensors", _into_a_file), GOOD, same=True),
    "store link in place of a result": InjectedFault(
        _damage("train/*/weights.safetensors", _into_a_link), GOOD, same=True),
    "disk out in /proc": InjectedFault(_out("/proc/edgekd-runs"), (2,), "/proc/edgekd-runs"),
    "disk out is a file": InjectedFault(_out("file", Path.touch), (2,), "file"),
    "disk out below a file": InjectedFault(
        lambda case: _out("file/below")(case)
        if (case.folder / "file").touch() is None else [], (2,), "file"),
    "disk name too long": InjectedFault(_out("x" * 300), (2,), "too long"),
    "disk link to itself": InjectedFault(
        _out("loop", lambda path: path.symlink_to("loop")), (2,), "loop"),
    "disk folder named latest": InjectedFault(_latest, (2,), "latest"),
    "disk limit of 64 KiB a file": InjectedFault(_limited("-f 64"), (*BAD, 2), "too large"),
    "few file handles": InjectedFault(_limited("-n 64"), (0, 2, 5, 9)),
    "recipe 5,000 brackets": InjectedFault(_check("x = " + "[" * 5000), (2,), "recipe.toml"),
    "recipe 5,000 digits": InjectedFault(_check("x = " + "9" * 5000), (2,), "recipe.toml"),
    "recipe not UTF-8": InjectedFault(_check(b"name = '\xff'"), (2,), "recipe.toml"),
    "recipe NUL in a path": InjectedFault(
        _check('name = "x"\n[data]\nload = "a\\u0000.py:b"\n[student]\nload = "m.py:n"\n'), (2,)),
    "url unclosed bracket": InjectedFault(_url("ssh://[::1"), (2,)),
    "url two at signs": InjectedFault(_url("ssh://a@b@[::1]:99999"), (2, 6)),
    "url option of the shell": InjectedFault(_url("ssh://-oProxyCommand=touch"), (2, 6)),
    "archive 30,000 entries": InjectedFault(_archive(_many), (2,), "entries"),
    "archive without names": InjectedFault(_nameless, (2,)),
    "archive leads outside": InjectedFault(_archive(lambda z: z.writestr("../x", b"x")), (2,)),
    "card of another type": InjectedFault(_card([1]), (2,), "artifact.json"),
    "card leads outside": InjectedFault(
        _card({"path": "../x", "format": "onnx", "scheme": "fp32"}), (2,), "artifact.json"),
}  # fmt: skip
"""The faults by name."""
