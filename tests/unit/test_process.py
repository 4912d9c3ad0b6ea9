from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgekd.process import last_lines, output_to, run_process


def test_a_process_returns_what_it_wrote_and_how_it_ended() -> None:
    code = "import sys; print(input()); sys.stderr.write('no'); sys.exit(3)"
    done = run_process([sys.executable, "-c", code], timeout_s=30, stdin=b"yes\n")
    assert (done.code, done.stdout, done.stderr) == (3, b"yes\n", "no")


def test_a_process_past_its_time_is_killed() -> None:
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


def test_output_comes_back_after_a_failure(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        with output_to(tmp_path / "log.txt"):
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    print("heard")
    assert capfd.readouterr().out == "heard\n"
