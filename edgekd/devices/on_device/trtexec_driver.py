"""The program that calls TensorRT's trtexec on a Jetson, artifact by artifact:

    python trtexec_driver.py FOLDER      FOLDER/trtexec.json -> log-*.txt, power-*.json, done.json

While one times, tegrastats is read ten times a second; its lines are kept from when the inferences
start to when they are summed up. Standard library alone; Python 3.6, which JetPack 4 has.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time

BEGIN, END = "Starting inference", "=== Trace details ==="
SAID_BYTES = 4000000


def follow(argv, folder, log, watch):
    """The exit code of trtexec, and the lines of tegrastats while it timed."""
    stats, told, begin, end = None, [], None, None
    if watch and shutil.which("tegrastats"):
        stats = subprocess.Popen(
            ["tegrastats", "--interval", "100"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            universal_newlines=True,
        )

        def read():
            for line in stats.stdout:
                told.append((time.time(), line.strip()))

        threading.Thread(target=read, daemon=True).start()
    try:
        child = subprocess.Popen(
            argv,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            errors="replace",
        )
        with open(os.path.join(folder, log), "w") as file:
            size = 0
            for line in child.stdout:
                if BEGIN in line:
                    begin = time.time()
                elif END in line and end is None:
                    end = time.time()
                size += len(line)
                if size < SAID_BYTES:
                    file.write(line)
        code = child.wait()
    finally:
        if stats is not None:
            stats.kill()
            stats.wait()
    if begin is None or end is None:
        return code, []
    return code, [line for at, line in told if begin <= at <= end]


def said(*words):
    """What a program prints, or None where it is not there."""
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            universal_newlines=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def model():
    """What the board calls itself."""
    for path in ("/proc/device-tree/model", "/sys/firmware/devicetree/base/model"):
        try:
            with open(path) as file:
                return file.read().strip("\0\n ")
        except OSError:
            continue
    return platform.processor() or platform.machine()


def main(folder):
    with open(os.path.join(folder, "trtexec.json")) as file:
        plan = json.load(file)
    cache = os.path.join(os.path.expanduser("~"), ".cache", "edgekd")
    if not os.path.isdir(cache):
        os.makedirs(cache)
    done = {}
    for name in sorted(plan["artifacts"]):
        codes = done.setdefault(name, [])
        for number, options in enumerate(plan["artifacts"][name]):
            argv = [plan["program"]] + [each.replace("{cache}", cache) for each in options]
            log = "log-%s-%d.txt" % (name, number)
            try:
                code, lines = follow(argv, folder, log, plan["watch"])
            except OSError as error:
                sys.stderr.write("%s: %s\n" % (plan["program"], error.strerror))
                return 127
            codes.append(code)
            with open(os.path.join(folder, "power-%s-%d.json" % (name, number)), "w") as file:
                json.dump(lines, file)
            if code != 0:
                break
    facts = {
        "machine": platform.machine(),
        "processor": model(),
        "cpu_count": os.cpu_count(),
        "instructions": [],
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "governor": None,
        "nvpmodel": said("nvpmodel", "-q"),
    }
    with open(os.path.join(folder, "done.json"), "w") as file:
        json.dump({"codes": done, "device": facts}, file)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
