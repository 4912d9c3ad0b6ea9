from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from functools import partial
from pathlib import Path

import pytest

from edgekd.system.output import last_lines, output_to
from edgekd.system.process import run_concurrently, run_process
from edgekd.system.scratch import clear_abandoned, scratch_folder


def test_a_process_returns_its_output_and_exit_status() -> None:
    code = "import sys; print(input()); sys.stderr.write('no'); sys.exit(3)"
    done = run_process([sys.executable, "-c", code], timeout_s=30, stdin=b"yes\n")
    assert (done.code, done.stdout, done.stderr) == (3, b"yes\n", "no")


def test_a_process_is_killed_at_its_time_limit() -> None:
    done = run_process([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.2)
    assert done.code is None


def test_a_shell_metacharacter_is_only_a_character() -> None:
    done = run_process(["printf", "%s", "$(echo a); b"], timeout_s=30)
    assert done.stdout == b"$(echo a); b"


def test_output_of_python_and_of_c_goes_to_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.txt"
    with output_to(log):
        print("from python")
        os.write(1, b"from file descriptor 1\n")
        os.write(2, b"from file descriptor 2\n")
    print("after")
    assert capfd.readouterr().out == "after\n"
    assert {"from python", "from file descriptor 1", "from file descriptor 2"} <= set(
        log.read_text().splitlines()
    )
    assert "from" in last_lines(log)


def test_output_is_restored_after_a_failure(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        with output_to(tmp_path / "log.txt"):
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    print("heard")
    assert capfd.readouterr().out == "heard\n"


def test_concurrent_calls_run_at_once_and_return_in_order() -> None:
    together = threading.Barrier(3, timeout=60)  # It breaks if one call waits for another.

    def call(number: int) -> int:
        together.wait()
        return number

    assert run_concurrently([partial(call, n) for n in range(3)]) == [0, 1, 2]
    assert run_concurrently([lambda: 7]) == [7]


def test_an_error_of_one_call_is_raised_after_the_others_have_ended() -> None:
    ended = []

    def good() -> None:
        ended.append(run_process(["true"], timeout_s=30).code)

    def bad() -> None:
        raise ValueError("this one")

    with pytest.raises(ValueError, match="this one"):
        run_concurrently([bad, good])
    assert ended == [0]


SLEEPERS = """
import sys
from functools import partial
from edgekd.system.process import pause, run_concurrently, run_process

def work(name):
    try:
        run_process([sys.executable, "-c", "import time; time.sleep(600)", name], timeout_s=600)
    finally:
        done = run_process(["echo", "cleaned up"], timeout_s=30)
        print(done.stdout.decode(), end="", flush=True)
        pause(0)

print("ready", flush=True)
run_concurrently([partial(work, sys.argv[1]), partial(work, sys.argv[1]), partial(pause, 600)])
"""


def test_ctrl_c_ends_the_processes_of_every_thread_and_lets_them_clean_up(tmp_path: Path) -> None:
    mark = f"edgekd-test-{os.getpid()}-{tmp_path.name}"
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPERS, mark],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    until = time.monotonic() + 60
    while len(running(mark)) < 3 and time.monotonic() < until:
        time.sleep(0.05)
    assert len(running(mark)) == 3, "the program and its two sleepers"
    os.kill(process.pid, signal.SIGINT)  # The process only, not its children, as `kill -INT` does.
    out, err = process.communicate(timeout=60)
    assert out == "cleaned up\n" * 2
    assert "KeyboardInterrupt" in err
    assert running(mark) == []


FLOOD = "data = b'x' * 2**20 + b'\\n'\nfor _ in range({count}): os.write(1, data)"
STUBBORN = {
    "floods": FLOOD.format(count=10**9),
    "ignores SIGTERM": "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
    "closes its output": "os.close(1); os.close(2); time.sleep(600)",
    "forks a process with its pipe": "os.fork(); time.sleep(600)",
}


@pytest.mark.parametrize("code", STUBBORN.values(), ids=STUBBORN)
def test_a_time_limit_holds_whatever_the_child_does(code: str) -> None:
    begin_s = time.monotonic()
    argv = [sys.executable, "-c", f"import os, signal, time\n{code}"]
    done = run_process(argv, timeout_s=1.0)
    assert done.code is None
    assert time.monotonic() - begin_s < 5
    assert len(done.stdout) < 2**18


def test_a_child_that_writes_two_gigabytes_costs_little_memory() -> None:
    code = f"import os\n{FLOOD.format(count=2000)}\nos.write(1, b'the end')"
    tracemalloc.start()
    done = run_process([sys.executable, "-c", code], timeout_s=60)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2**21
    assert done.code == 0
    left_out_bytes = 2000 * (2**20 + 1) + len("the end") - 2**17
    assert f"\n... {left_out_bytes} bytes left out ...\n".encode() in done.stdout
    assert done.stdout.startswith(b"xxx")
    assert done.stdout.endswith(b"x\nthe end")


def test_a_process_that_outlives_its_program_in_another_session_is_not_waited_for() -> None:
    code = (
        "import os, sys, time\n"
        "print('parent', flush=True)\n"
        "if not os.fork(): os.setsid(); time.sleep(15)"
    )
    begin_s = time.monotonic()
    done = run_process([sys.executable, "-c", code], timeout_s=60)
    assert (done.code, done.stdout) == (0, b"parent\n")
    assert time.monotonic() - begin_s < 5


def test_input_beyond_the_pipe_reaches_a_slow_reader() -> None:
    code = "import sys, time; time.sleep(0.3); print(len(sys.stdin.buffer.read()))"
    done = run_process([sys.executable, "-c", code], timeout_s=30, stdin=b"a" * 2**22)
    assert done.stdout == b"4194304\n"


OWNER = """
import sys, time
from functools import partial
from edgekd.system.process import run_concurrently, run_process
from edgekd.system.scratch import scratch_folder

child = "import os, sys, time; os.fork() or os.setsid(); time.sleep(600)"
call = partial(run_process, [sys.executable, "-c", child, sys.argv[1]], timeout_s=600)
with scratch_folder("test") as folder:
    print(folder, flush=True)
    run_concurrently([call, call])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_takes_its_children_and_its_folder_with_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    mark = f"edgekd-test-{os.getpid()}-{tmp_path.name}"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, mark], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        until = time.monotonic() + 60
        while len(running(mark)) < 5 and time.monotonic() < until:
            time.sleep(0.02)
        assert len(running(mark)) == 5, "the program, its two children and their children"
        assert folder.is_dir()
        process.send_signal(number)
        process.wait(timeout=10)
    until = time.monotonic() + 5
    while (running(mark) or any(tmp_path.iterdir())) and time.monotonic() < until:
        time.sleep(0.02)
    assert running(mark) == []
    assert list(tmp_path.iterdir()) == []


def test_the_next_process_clears_the_folder_of_a_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    abandoned, foreign = tmp_path / "edgekd-1-aaaaaaaa", tmp_path / "edgekd-notes"
    for folder in (abandoned, foreign):
        folder.mkdir()
        (folder / "owner").touch()
    with scratch_folder("test") as folder:
        assert not abandoned.exists()
        assert foreign.exists()
        clear_abandoned(tmp_path)  # Its own folder is locked.
        assert folder.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["edgekd-notes"]


def running(mark: str) -> list[int]:
    """The processes that have `mark` on their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found
