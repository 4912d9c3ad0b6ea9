"""A phone's shell by the user's own adb: commands, files, and folders that are gone afterwards.

The environment of adb holds: ANDROID_SERIAL, ANDROID_ADB_SERVER_PORT, ADB_SERVER_SOCKET and the
like.
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
from urllib.parse import urlsplit

from edgekd.devices.telemetry import phone
from edgekd.devices.transport.reconnect import Dropped
from edgekd.errors import Fault, RecipeError, UnreachableError
from edgekd.system.process import Completed, run_process

SERIAL = re.compile(r"\w[\w.:\[\]%-]*")
TEMPORARY = "/data/local/tmp"
"""Where the shell's user may write and start programs. Source: Android Open Source Project, adb."""
MARK = "EDGEKD_EXIT="
ANSWER_S = 60
BACK_S = 30
"""For a phone to come back whose connection broke."""
OPTIONS = {
    "python": "PATH on the phone",
    "benchmark_model": "PATH here, of one for Android",
    "cores": "big, or a mask such as f0",
    "cool_s": "the longest wait for it to cool, in seconds",
}
TIME_IS_UP, NOT_WHOLE, NO_PROGRAM = 124, 125, 127
"""What the keeper exits with; see there."""
LOST = re.compile(
    r"device (?:'[^']*' not found|offline|not found)|no devices|error: closed|protocol fault"
    r"|failed to (?:connect|read|write)|[Cc]onnection (?:reset|refused)|[Bb]roken pipe"
)
"""How adb says that a phone that was there is not."""


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
            Dropped: the phone answers no longer.
        """
        done = self.adb("shell", f"{command}; echo {MARK}$?", timeout_s=timeout_s)
        told = done.stdout.decode(errors="replace").replace("\r\n", "\n")
        head, mark, status = told.rpartition(MARK)
        if done.code is None:
            return Completed(None, head.encode(), done.stderr + head)
        if not mark or not status.strip().isdigit():
            raise Dropped(
                fault_of(
                    self.url, f"{done.last_lines} {told[-200:]}".strip(), "the phone to answer"
                )
            )
        return Completed(int(status), head.encode(), done.stderr + head)

    def must(self, what: str, done: Completed) -> Completed:
        """`done`, if it ended well.

        Raises:
            UnreachableError: it did not.
            Dropped: the connection broke.
        """
        if done.code != 0:
            ended = "no answer in time" if done.code is None else f"exit status {done.code}"
            told = said(done)
            fault = fault_of(self.url, f"{ended}: {told}", f"{what} to succeed")
            raise Dropped(fault) if LOST.search(told) else UnreachableError(fault)
        return done


@contextlib.contextmanager
def at_place(url: str, places: list[str]) -> Iterator[tuple[Shell, str]]:
    """The shell of the phone at `url`, and a new folder there, gone afterwards.

    Args:
        places: folders of tries before this one, whose connection broke: what runs in them is
            ended first. The new one is among them for as long as it may be there.

    Raises:
        UnreachableError: there is no adb, or no such phone, or it does not let us in.
        Dropped: the phone is not back.
    """
    if places:
        chosen = Shell(_program(url), url, urlsplit(url).netloc or None)
        chosen.adb("wait-for-device", timeout_s=BACK_S)
    try:
        shell = find_shell(url)
    except UnreachableError as error:
        if places:
            raise Dropped(error.faults[0]) from error
        raise
    _leave(shell, places)
    place = f"{TEMPORARY}/edgekd.{secrets.token_hex(8)}"
    places.append(place)
    try:
        shell.must("mkdir", shell.run(f"mkdir {place}"))
        yield shell, place
    finally:
        _leave(shell, places)


def _leave(shell: Shell, places: list[str]) -> None:
    """Ends what still runs in `places` on the phone, and removes them: it does not hear that adb
    was ended. A place that cannot be reached stays listed."""
    for place in list(places):
        ask = "kill -0 $p 2>/dev/null"
        end = f"kill $p; n=0; while {ask} && [ $n -lt 5 ]; do sleep 1; n=$((n+1)); done; kill -9 $p"
        running = f"if [ -f {place}/pid ]; then p=$(cat {place}/pid); {end} 2>/dev/null; fi"
        with contextlib.suppress(UnreachableError, Dropped):  # What went before is the news.
            shell.run(f"{running}; rm -rf {place}")
            places.remove(place)


def start(shell: Shell, place: str, argv: Sequence[str], timeout_s: float) -> Completed:
    """How the program ended that was started in `place`."""
    # The number of the process stays in a file until it has ended.
    program = f"echo $$ > pid; exec {shlex.join(argv)}"
    ended = f"ended=$?; rm -f {place}/pid; (exit $ended)"
    command = f"cd {place} && sh -c {shlex.quote(program)}; {ended}"
    return shell.run(command, timeout_s=timeout_s)


def find_shell(url: str) -> Shell:
    """The shell of the phone at `url`, which answers.

    Raises:
        UnreachableError: there is no adb, or no such phone, or it does not let us in.
    """
    serial = urlsplit(url).netloc
    if serial and not SERIAL.fullmatch(serial):
        raise UnreachableError(
            fault_of(url, f"the serial {serial!r}", "one that `adb devices` lists")
        )
    shell = Shell(_program(url), url, serial or None)
    state = shell.adb("get-state")
    if state.code != 0 or state.stdout.strip() != b"device":
        got = said(state) if state.code is not None else "no answer in time"
        raise UnreachableError(fault_of(url, got, "a phone in the state `device`"))
    return shell


def prepare(shell: Shell, asked: Mapping[str, str], job: Mapping[str, object]) -> list[str]:
    """The words before a program that pin it to cores, once the phone is fit for the job.

    Raises:
        UnreachableError: it is not, or cannot pin.
        RecipeError: an option is not what it can be.
    """
    cores, cool_s = asked.get("cores"), asked.get("cool_s", str(phone.COOL_S))
    if not re.fullmatch(r"\d+(\.\d+)?", cool_s) or not re.fullmatch(
        r"big|[0-9a-fA-F]+", cores or "big"
    ):
        got = f"cores = {cores}, cool_s = {cool_s}"
        expected = "cores = big or a mask such as f0, cool_s = seconds"
        what = "An option of the phone's URL cannot be."
        raise RecipeError(Fault(what, shell.url, got, expected, "?cores=big"))
    if job["action"] == "time":
        why = phone.unfit(shell.run, cool_s=float(cool_s))
        if why is not None:
            expected = "a battery of 30 % or a charger, and a cool phone"
            raise UnreachableError(
                Fault(
                    what=f"Nothing can be timed on the phone {shell.url} now.",
                    at=shell.url,
                    got=why,
                    expected=expected,
                    fix="charge it and let it cool; its screen off, out of its case",
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
            fault_of(shell.url, "no taskset there", "a phone that pins (?cores=)")
        )
    return ["taskset", cores]


def _program(url: str) -> str:
    places = [os.environ.get("PATH", "")]
    for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        if name in os.environ:
            places.append(str(Path(os.environ[name]) / "platform-tools"))
    found = shutil.which("adb", path=os.pathsep.join(places))
    if found is None:
        raise UnreachableError(fault_of(url, "no adb program", "adb on PATH or in ANDROID_HOME"))
    return found


def sha_of(path: Path) -> str:
    """The sha256 of a file here."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def died(url: str, what: str, done: Completed, timeout_s: float) -> Fault:
    """Why `what` brought nothing."""
    late = done.code in (None, TIME_IS_UP)
    ended = f"past {timeout_s:.0f} s" if late else f"exit status {done.code}"
    return Fault(
        what=f"{what} did not finish on the phone.",
        at=url,
        got=f"{ended}: {said(done)}",
        expected="a report",
        fix="run it there by hand: adb shell",
    )


def said(done: Completed) -> str:
    """The end of what was said, by whichever way: adb and old phones write errors on stdout."""
    said = done.stderr if done.stderr.strip() else done.stdout.decode(errors="replace")
    return Completed(done.code, b"", said).last_lines


def fault_of(url: str, got: str, expected: str) -> Fault:
    """Why the phone at `url` cannot be used."""
    return Fault(
        what=f"The phone {url} cannot be used.",
        at=url,
        got=got,
        expected=expected,
        fix="look at it by hand: adb devices -l; then allow USB debugging on its screen",
    )
