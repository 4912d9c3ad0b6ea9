"""The program that stands over a job on a board, between the connection and what computes:

    python keeper.py FOLDER LIMIT_S held|alone PROGRAM ARGUMENT...

It makes sure that the files of FOLDER came whole (files.json has their digests), starts the program
there, and ends it with all that it started once the time is up, or, where the host holds stdin open
for as long as it is there, once that ends. What the job made is in FOLDER/made.json, by digest.

Standard library alone; Python 3.6 and later, which JetPack 4 has.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

TIME_IS_UP = 124  # As GNU timeout has it.
NOT_WHOLE = 125
HOST_IS_GONE = 126
NO_PROGRAM = 127


def digest(path):
    """The sha256 of a file, read in pieces: a board's memory is small."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            found.update(piece)
    return found.hexdigest()


def different(folder):
    """The first file that is not as it was sent, or None."""
    with open(os.path.join(folder, "files.json")) as file:
        wanted = json.load(file)
    for name in sorted(wanted):
        path = os.path.join(folder, name)
        if not os.path.isfile(path) or digest(path) != wanted[name]:
            return name
    return None


def kept(folder, limit_s, held, argv):
    """The exit status of the program, or what ended it."""
    try:
        child = subprocess.Popen(argv, cwd=folder, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        sys.stderr.write("%s: %s\n" % (argv[0], error.strerror))
        return NO_PROGRAM
    ended_by = []

    def end(why):
        ended_by.append(why)
        _kill(child.pid)

    def watch():
        while os.read(0, 4096):
            pass
        end(HOST_IS_GONE)

    signal.signal(signal.SIGTERM, lambda *_: end(HOST_IS_GONE))
    signal.signal(signal.SIGHUP, lambda *_: end(HOST_IS_GONE))
    if held:
        threading.Thread(target=watch, daemon=True).start()
    clock = threading.Timer(limit_s, end, [TIME_IS_UP])
    clock.daemon = True
    clock.start()
    status = child.wait()
    clock.cancel()
    _kill(child.pid)  # What it started and left.
    if ended_by:
        return ended_by[0]
    # ssh's own failures are 255; a program that a signal ended is told as shells do.
    return min(status, 254) if status >= 0 else 128 - status


def _kill(group):
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass


def main(folder, limit_s, held, *argv):
    wrong = different(folder)
    if wrong is not None:
        sys.stderr.write("%s is not as it was sent\n" % wrong)
        return NOT_WHOLE
    with open(os.path.join(folder, "files.json")) as file:
        sent = set(json.load(file)) | {"files.json", "keeper.py"}
    status = kept(folder, float(limit_s), held == "held", argv)
    if status == HOST_IS_GONE:
        shutil.rmtree(folder, ignore_errors=True)
        return status
    made = {
        name: digest(os.path.join(folder, name))
        for name in os.listdir(folder)
        if name not in sent and os.path.isfile(os.path.join(folder, name))
    }
    with open(os.path.join(folder, "made.json"), "w") as file:
        json.dump(made, file)
    return status


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
