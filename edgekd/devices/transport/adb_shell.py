"""A phone's shell over the user's own adb: commands, files, and temporary folders.

adb's environment applies: ANDROID_SERIAL, ANDROID_ADB_SERVER_PORT, ADB_SERVER_SOCKET and others.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.devices.telemetry import phone
from edgekd.devices.transport.reconnect import ConnectionLostError
from edgekd.devices.transport.url import split_url
from edgekd.errors import Fault, RecipeError, UnreachableError
from edgekd.system.lifetime import OWNERS
from edgekd.system.process import Completed, run_process

SERIAL = re.compile(r"\w[\w.:\[\]%-]*")
TEMPORARY = "/data/local/tmp"
"""The folder in which the shell's user may write and start programs. Source: AOSP, adb."""
MARK = "EDGEKD_EXIT="
ANSWER_S = 60
BACK_S = 30
"""Wait for a phone to come back after its connection broke."""
OPTIONS = {
    "python": "PATH on the phone",
    "benchmark_model": "PATH here, of a build for Android",
    "cores": "big, or a mask such as f0",
    "cool_s": "the longest wait for it to cool, in seconds",
}
TIMED_OUT, NOT_INTACT, NO_PROGRAM = 124, 125, 127
"""Exit statuses of the supervisor."""
LOST = re.compile(
    r"device (?:'[^']*' not found|offline|not found)|no devices|error: closed|protocol fault"
    r"|failed to (?:connect|read|write)|[Cc]onnection (?:reset|refused)|[Bb]roken pipe"
)
"""Messages of adb about a phone that is no longer connected."""


@dataclass(frozen=True)
class Shell:
    """A phone's shell."""

    program: str
    url: str
    serial: str | None

    def adb(self, *args: str, timeout_s: float = ANSWER_S) -> Completed:
        """The finished process of `adb` with `args`."""
        serial = ["-s", self.serial] if self.serial else []
        # adb may start its server here, which others use too and which stays.
        return run_process([self.program, *serial, *args], timeout_s=timeout_s, env={OWNERS: ""})

    def run(self, command: str, *, timeout_s: float = ANSWER_S) -> Completed:
        """The finished `command` on the phone; its stderr holds both output streams.

        adb for phones before Android 7 always exits with 0 and merges stderr into stdout, so the
        exit status is echoed after the output. Lines may end in "\\r\\n" there.

        Raises:
            ConnectionLostError: the phone no longer answers.
        """
        done = self.adb("shell", f"{command}; echo {MARK}$?", timeout_s=timeout_s)
        text = done.stdout.decode(errors="replace").replace("\r\n", "\n")
        output, mark, status = text.rpartition(MARK)
        if done.code is None:
            return Completed(None, output.encode(), done.stderr + output)
        if not mark or not status.strip().isdigit():
            got = f"{done.last_lines} {text[-200:]}".strip()
            raise ConnectionLostError(fault_of(self.url, got, "the phone to answer"))
        return Completed(int(status), output.encode(), done.stderr + output)

    def must(self, what: str, done: Completed) -> Completed:
        """`done`, if it succeeded.

        Raises:
            UnreachableError: it failed.
            ConnectionLostError: the connection broke.
        """
        if done.code != 0:
            ended = "no answer in time" if done.code is None else f"exit status {done.code}"
            text = error_text(done)
            fault = fault_of(self.url, f"{ended}: {text}", f"{what} to succeed")
            raise ConnectionLostError(fault) if LOST.search(text) else UnreachableError(fault)
        return done


@contextlib.contextmanager
def opened_folder(url: str, leftovers: list[str]) -> Iterator[tuple[Shell, str]]:
    """The shell of the phone at `url`, and a new folder there that is removed on exit.

    Args:
        leftovers: folders of earlier tries whose connection broke. Their processes are ended
            first. The new folder is listed too, for as long as it may exist on the phone.

    Raises:
        UnreachableError: there is no adb or no such phone, or it refuses access.
        ConnectionLostError: the phone has not come back.
    """
    if leftovers:
        lost = Shell(_program(url), url, serial_of(url))
        lost.adb("wait-for-device", timeout_s=BACK_S)
    try:
        shell = find_shell(url)
    except UnreachableError as error:
        if leftovers:
            raise ConnectionLostError(error.faults[0]) from error
        raise
    _clean_up(shell, leftovers)
    folder = f"{TEMPORARY}/edgekd.{secrets.token_hex(8)}"
    leftovers.append(folder)
    try:
        shell.must("mkdir", shell.run(f"mkdir {folder}"))
        yield shell, folder
    finally:
        _clean_up(shell, leftovers)


def _clean_up(shell: Shell, folders: list[str]) -> None:
    """End the processes in `folders` on the phone, and remove the folders.

    A process on the phone does not notice that adb here has ended. A folder that cannot be reached
    stays listed.
    """
    for folder in list(folders):
        alive = "kill -0 $p 2>/dev/null"
        wait = f"n=0; while {alive} && [ $n -lt 5 ]; do sleep 1; n=$((n+1)); done"
        end = f"kill $p; {wait}; kill -9 $p"
        stop = f"if [ -f {folder}/pid ]; then p=$(cat {folder}/pid); {end} 2>/dev/null; fi"
        # An earlier error is the one to report.
        with contextlib.suppress(UnreachableError, ConnectionLostError):
            shell.run(f"{stop}; rm -rf {folder}")
            folders.remove(folder)


def start(shell: Shell, folder: str, argv: Sequence[str], timeout_s: float) -> Completed:
    """The finished process of `argv`, started in `folder` on the phone."""
    # The file `pid` holds the process ID until the process has ended.
    program = f"echo $$ > pid; exec {shlex.join(argv)}"
    ended = f"ended=$?; rm -f {folder}/pid; (exit $ended)"
    command = f"cd {folder} && sh -c {shlex.quote(program)}; {ended}"
    return shell.run(command, timeout_s=timeout_s)


def find_shell(url: str) -> Shell:
    """The shell of the phone at `url`, which is online.

    Raises:
        UnreachableError: there is no adb or no such phone, or it refuses access.
    """
    shell = Shell(_program(url), url, serial_of(url))
    state = shell.adb("get-state")
    if state.code != 0 or state.stdout.strip() != b"device":
        got = error_text(state) if state.code is not None else "no answer in time"
        raise UnreachableError(fault_of(url, got, "a phone in the state `device`"))
    return shell


def serial_of(url: str) -> str | None:
    """The phone's serial in `url`; None for the only phone.

    Raises:
        RecipeError: no phone has such a serial.
    """
    serial = split_url(url).netloc
    if serial and not SERIAL.fullmatch(serial):
        expected = "one that `adb devices` lists"
        raise RecipeError(fault_of(url, f"the serial {serial!r}", expected))
    return serial or None


def prepare(shell: Shell, options: Mapping[str, str], job: Mapping[str, object]) -> list[str]:
    """The command prefix that pins a program to cores, once the phone is ready for the job.

    Raises:
        UnreachableError: the phone is not ready, or cannot pin.
        RecipeError: the value of an option is not valid.
    """
    cores, cool_s = options.get("cores"), options.get("cool_s", str(phone.COOL_S))
    if not re.fullmatch(r"\d+(\.\d+)?", cool_s) or not re.fullmatch(
        r"big|[0-9a-fA-F]+", cores or "big"
    ):
        got = f"cores = {cores}, cool_s = {cool_s}"
        expected = "cores = big or a mask such as f0, cool_s = seconds"
        what = "An option of the phone's URL is not valid."
        raise RecipeError(Fault(what, shell.url, got, expected, "?cores=big"))
    if job["action"] == "time":
        reason = phone.not_ready(shell.run, cool_s=float(cool_s))
        if reason is not None:
            expected = "a battery of 30 % or a charger, and a cool phone"
            raise UnreachableError(
                Fault(
                    what=f"Latency cannot be measured on the phone {shell.url} now.",
                    at=shell.url,
                    got=reason,
                    expected=expected,
                    fix="charge it and let it cool, with its screen off and out of its case",
                )
            )
    if cores is None:
        return []
    if cores == "big":
        try:
            cores = phone.big_cores(shell.run, int(str(job["threads"])))
        except ValueError as error:
            raise UnreachableError(fault_of(shell.url, str(error), "?cores=MASK")) from error
    if shell.run("taskset 1 true").code == NO_PROGRAM:
        raise UnreachableError(
            fault_of(shell.url, "no taskset there", "a phone with taskset, for ?cores=")
        )
    return ["taskset", cores]


def _program(url: str) -> str:
    folders = [os.environ.get("PATH", "")]
    for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        if name in os.environ:
            folders.append(str(Path(os.environ[name]) / "platform-tools"))
    program = shutil.which("adb", path=os.pathsep.join(folders))
    if program is None:
        raise UnreachableError(fault_of(url, "no adb program", "adb on PATH or in ANDROID_HOME"))
    return program


def sha256_of(path: Path) -> str:
    """The sha256 of a local file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unfinished(url: str, what: str, done: Completed, timeout_s: float) -> Fault:
    """The fault of `what`, a program that ended without a report."""
    late = done.code in (None, TIMED_OUT)
    ended = f"timed out after {timeout_s:.0f} s" if late else f"exit status {done.code}"
    return Fault(
        what=f"{what} did not finish on the phone.",
        at=url,
        got=f"{ended}: {error_text(done)}",
        expected="a report",
        fix="run it there by hand: adb shell",
    )


def error_text(done: Completed) -> str:
    """The last lines of stderr, or of stdout, where adb and old phones write their errors."""
    text = done.stderr if done.stderr.strip() else done.stdout.decode(errors="replace")
    return Completed(done.code, b"", text).last_lines


def fault_of(url: str, got: str, expected: str) -> Fault:
    """The fault of a phone that cannot be used."""
    return Fault(
        what=f"The phone {url} cannot be used.",
        at=url,
        got=got,
        expected=expected,
        fix="run `adb devices -l`, then allow USB debugging on the phone's screen",
    )
