"""Supervise a job on a board, between the connection and the program that computes.

    python keeper.py FOLDER LIMIT_S held|alone PROGRAM ARGUMENT...

It compares the digests of the files in FOLDER with files.json, starts the program there, and ends
it and its children after LIMIT_S. With `held`, it also ends them when stdin closes, which the host
holds open. FOLDER/made.json then lists the digests of the files that the job wrote.

This file is named keeper.py on the board until the agent's version changes.

Standard library only; Python 3.6 and later, for JetPack 4.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

TIMED_OUT = 124  # As GNU timeout has it.
NOT_INTACT = 125
HOST_LOST = 126
NO_PROGRAM = 127


def digest(path):
    """The sha256 of a file, read in chunks because a board's memory is small."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            sha.update(chunk)
    return sha.hexdigest()


def damaged_file(folder):
    """The first file that differs from the one that was sent, or None."""
    with open(os.path.join(folder, "files.json")) as file:
        wanted = json.load(file)
    for name in sorted(wanted):
        path = os.path.join(folder, name)
        if not os.path.isfile(path) or digest(path) != wanted[name]:
            return name
    return None


def end_with_supervisor():
    """Have the kernel end this process with its parent, on Linux; called in the child."""
    if PRCTL is not None:
        PRCTL(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


try:
    import ctypes

    PRCTL = ctypes.CDLL(None).prctl
except (ImportError, OSError, AttributeError, TypeError):
    PRCTL = None


def supervise(folder, limit_s, held, argv):
    """The exit status of the program, or the reason why it was ended."""
    try:
        # No thread runs yet, so that a function may run between fork and exec.
        child = subprocess.Popen(
            argv,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=end_with_supervisor,
        )
    except OSError as error:
        sys.stderr.write("%s: %s\n" % (argv[0], error.strerror))
        return NO_PROGRAM
    ended_by = []

    def end(reason):
        ended_by.append(reason)
        _kill(child.pid)

    def watch_stdin():
        while os.read(0, 4096):
            pass
        end(HOST_LOST)

    signal.signal(signal.SIGTERM, lambda *_: end(HOST_LOST))
    signal.signal(signal.SIGHUP, lambda *_: end(HOST_LOST))
    if held:
        threading.Thread(target=watch_stdin, daemon=True).start()
    timer = threading.Timer(limit_s, end, [TIMED_OUT])
    timer.daemon = True
    timer.start()
    status = child.wait()
    timer.cancel()
    _kill(child.pid)  # Ends processes that it left behind.
    if ended_by:
        return ended_by[0]
    # 255 is reserved for ssh's own failures; a signal is reported as shells do.
    return min(status, 254) if status >= 0 else 128 - status


def _kill(group):
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass


def main(folder, limit_s, held, *argv):
    damaged = damaged_file(folder)
    if damaged is not None:
        sys.stderr.write("%s differs from the file that was sent\n" % damaged)
        return NOT_INTACT
    with open(os.path.join(folder, "files.json")) as file:
        sent = set(json.load(file)) | {"files.json", "keeper.py"}
    status = supervise(folder, float(limit_s), held == "held", argv)
    if status == HOST_LOST:
        shutil.rmtree(folder, ignore_errors=True)
        return status
    written = {
        name: digest(os.path.join(folder, name))
        for name in os.listdir(folder)
        if name not in sent and os.path.isfile(os.path.join(folder, name))
    }
    with open(os.path.join(folder, "made.json"), "w") as file:
        json.dump(written, file)
    return status


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
