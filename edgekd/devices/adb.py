"""A phone reached by the user's own adb: adb://SERIAL, or adb:// for the only one.

The environment of adb holds: ANDROID_SERIAL, ANDROID_ADB_SERVER_PORT, ADB_SERVER_SOCKET and the
like. The agent runs where the phone has a Python that the shell's user may start (?python=PATH);
without one, a `benchmark_model` for it can be named (?benchmark_model=PATH, on this host), which
tells a summary of its own. Both are pinned to the cores of a mask (?cores=f0) by taskset.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from edgekd.devices.benchmark_model import Benchmark, parse_benchmark_model
from edgekd.errors import ConversionError, Fault, UnreachableError
from edgekd.process import Completed, run_process

SERIAL = re.compile(r"\w[\w.:\[\]%-]*")
TEMPORARY = "/data/local/tmp"
"""Where the shell's user may write and start programs. Source: Android Open Source Project, adb."""
MARK = "EDGEKD_EXIT="
ANSWER_S = 60


@dataclass(frozen=True)
class Shell:
    """A phone's shell."""

    program: str
    url: str
    serial: str | None

    def adb(self, *words: str, timeout_s: float = ANSWER_S) -> Completed:
        """What `adb` answers to `words`."""
        chosen = ["-s", self.serial] if self.serial else []
        return run_process([self.program, *chosen, *words], timeout_s=timeout_s)

    def run(self, command: str, *, timeout_s: float = ANSWER_S) -> Completed:
        """How `command` ended on the phone; on stderr is what it wrote on either.

        Phones before Android 7 answer 0 to everything, and write on stdout alone: so the exit
        status is written after the rest. Lines may end in "\\r\\n" there.

        Raises:
            UnreachableError: adb answers no longer.
        """
        done = self.adb("shell", f"{command}; echo {MARK}$?", timeout_s=timeout_s)
        told = done.stdout.decode(errors="replace").replace("\r\n", "\n")
        head, mark, status = told.rpartition(MARK)
        if done.code is None:
            return Completed(None, head.encode(), done.stderr + head)
        if not mark or not status.strip().isdigit():
            raise UnreachableError(
                _fault(self.url, f"{done.last_lines} {told[-200:]}".strip(), "the phone to answer")
            )
        return Completed(int(status), head.encode(), done.stderr + head)

    def must(self, what: str, done: Completed) -> Completed:
        """`done`, if it ended well.

        Raises:
            UnreachableError: it did not.
        """
        if done.code != 0:
            ended = "no answer in time" if done.code is None else f"exit status {done.code}"
            raise UnreachableError(
                _fault(self.url, f"{ended}: {_said(done)}", f"{what} to succeed")
            )
        return done


def run_agent(url: str, folder: Path, *, timeout_s: float) -> None:
    """Does the job in `folder`; see `Device`."""
    python = _query(url, "python") or "python3"
    shell = find_shell(url)
    with _place(shell) as place:
        _push(shell, folder, place, timeout_s)
        done = _started(shell, place, [python, "agent.py", "."], timeout_s)
        if done.code == 127:
            raise UnreachableError(_fault(url, _said(done), f"a program {python!r} there"))
        if done.code != 0:
            raise ConversionError(_died(url, "The agent", done, timeout_s))
        _pull(shell, place, folder, timeout_s)


def benchmark_model(url: str, model: Path, *, threads: int, timeout_s: float) -> Benchmark:
    """What the `benchmark_model` that `url` names tells of `model`, a TFLite file, on the phone.

    Raises:
        UnreachableError: the phone cannot be used, or there is no such program on this host.
        ConversionError: the program failed, or its output is not known.
    """
    program = Path(_query(url, "benchmark_model") or "")
    if not program.is_file():
        expected = "a benchmark_model for Android on this host: adb://...?benchmark_model=PATH"
        raise UnreachableError(_fault(url, f"no file {str(program)!r}", expected))
    shell = find_shell(url)
    with _place(shell) as place, tempfile.TemporaryDirectory(prefix="edgekd-job-") as scratch:
        shutil.copyfile(program, Path(scratch) / "benchmark_model")
        shutil.copyfile(model, Path(scratch) / "model.tflite")
        _push(shell, Path(scratch), place, timeout_s)
        shell.must("chmod", shell.run(f"chmod 755 {place}/benchmark_model"))
        options = ["--graph=model.tflite", f"--num_threads={threads}"]
        options += ["--report_peak_memory_footprint=true"]
        done = _started(shell, place, ["./benchmark_model", *options], timeout_s)
    if done.code != 0:
        raise ConversionError(_died(url, "benchmark_model", done, timeout_s))
    try:
        return parse_benchmark_model(done.stderr)  # `Shell.run` puts both ways there.
    except ValueError as error:
        raise ConversionError(_died(url, "benchmark_model", done, timeout_s)) from error


@contextlib.contextmanager
def _place(shell: Shell) -> Iterator[str]:
    """A folder on the phone, gone afterwards, and what still runs in it ended."""
    place = f"{TEMPORARY}/edgekd.{secrets.token_hex(8)}"
    shell.must("mkdir", shell.run(f"mkdir {place}"))
    try:
        yield place
    finally:
        with contextlib.suppress(UnreachableError):  # What went wrong before is the news.
            # What ran past its time goes on there: the phone does not hear that adb was ended.
            running = f"if [ -f {place}/pid ]; then kill -9 $(cat {place}/pid); fi"
            shell.run(f"{running}; rm -rf {place}")


def _started(shell: Shell, place: str, argv: Sequence[str], timeout_s: float) -> Completed:
    """How the program ended that was started in `place`, on the cores that the URL names."""
    cores = _query(shell.url, "cores")
    pinned = ["taskset", cores] if cores else []
    # The number of the process stays in a file until it has ended.
    program = f"echo $$ > pid; exec {shlex.join([*pinned, *argv])}"
    ended = f"ended=$?; rm -f {place}/pid; (exit $ended)"
    command = f"cd {place} && sh -c {shlex.quote(program)}; {ended}"
    return shell.run(command, timeout_s=timeout_s)


def _query(url: str, name: str) -> str | None:
    return parse_qs(urlsplit(url).query).get(name, [None])[0]


def _died(url: str, what: str, done: Completed, timeout_s: float) -> Fault:
    ended = f"past {timeout_s:.0f} s" if done.code is None else f"exit status {done.code}"
    return Fault(
        what=f"{what} did not finish on the phone.",
        at=url,
        got=f"{ended}: {_said(done)}",
        expected="a report",
        fix="run it there by hand: adb shell",
    )


def find_shell(url: str) -> Shell:
    """The shell of the phone at `url`, which answers.

    Raises:
        UnreachableError: there is no adb, or no such phone, or it does not let us in.
    """
    serial = urlsplit(url).netloc
    if serial and not SERIAL.fullmatch(serial):
        raise UnreachableError(
            _fault(url, f"the serial {serial!r}", "one that `adb devices` lists")
        )
    shell = Shell(_program(url), url, serial or None)
    state = shell.adb("get-state")
    if state.code != 0 or state.stdout.strip() != b"device":
        got = _said(state) if state.code is not None else "no answer in time"
        raise UnreachableError(_fault(url, got, "a phone in the state `device`"))
    return shell


def _program(url: str) -> str:
    places = [os.environ.get("PATH", "")]
    for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        if name in os.environ:
            places.append(str(Path(os.environ[name]) / "platform-tools"))
    found = shutil.which("adb", path=os.pathsep.join(places))
    if found is None:
        raise UnreachableError(_fault(url, "no adb program", "adb on PATH or in ANDROID_HOME"))
    return found


def _push(shell: Shell, folder: Path, place: str, timeout_s: float) -> None:
    """Puts all of `folder` to the phone, and makes sure that it is whole there."""
    names = sorted(entry.name for entry in folder.iterdir())
    pushed = shell.adb("push", *[str(folder / name) for name in names], place, timeout_s=timeout_s)
    shell.must("adb push", pushed)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    ours = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    listed = " ".join(shlex.quote(name) for name in ours)
    done = shell.must("sha256sum", shell.run(f"cd {place} && sha256sum {listed}"))
    lines = done.stdout.decode(errors="replace").splitlines()
    theirs = {name: sha for sha, _, name in (line.partition("  ") for line in lines)}
    wrong = [name for name, sha in ours.items() if theirs.get(name) != sha]
    if wrong:
        raise UnreachableError(
            _fault(shell.url, f"{wrong[0]} differs on the phone", "the file as it was sent")
        )


def _pull(shell: Shell, place: str, folder: Path, timeout_s: float) -> None:
    """Takes the report and the outputs, and nothing else, whatever the phone has."""
    names = shell.must("ls", shell.run(f"ls {place}")).stdout.decode(errors="replace").split()
    for name in names:
        if name == "report.json" or re.fullmatch(r"outputs-[\w.-]+\.npz", name):
            pulled = shell.adb("pull", f"{place}/{name}", str(folder / name), timeout_s=timeout_s)
            shell.must("adb pull", pulled)


def _said(done: Completed) -> str:
    """The end of what was said, by whichever way: adb and old phones write errors on stdout."""
    said = done.stderr if done.stderr.strip() else done.stdout.decode(errors="replace")
    return Completed(done.code, b"", said).last_lines


def _fault(url: str, got: str, expected: str) -> Fault:
    return Fault(
        what=f"The phone {url} cannot be used.",
        at=url,
        got=got,
        expected=expected,
        fix="look at it by hand: adb devices -l; then allow USB debugging on its screen",
    )
