"""Call TensorRT's trtexec on a Jetson, one artifact after another.

    python trtexec_driver.py FOLDER      FOLDER/trtexec.json -> log-*.txt, power-*.json, done.json

During a measurement, tegrastats is read ten times a second. Its lines are kept from the start of
the inferences to their summary. Standard library only; Python 3.6, for JetPack 4.
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
LOG_BYTES = 4000000


def follow(argv, folder, log, watch):
    """The exit code of trtexec, and the lines of tegrastats during its measurement."""
    stats, readings, begin, end = None, [], None, None
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
                readings.append((time.time(), line.strip()))

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
                if size < LOG_BYTES:
                    file.write(line)
        code = child.wait()
    finally:
        if stats is not None:
            stats.kill()
            stats.wait()
    if begin is None or end is None:
        return code, []
    return code, [line for at, line in readings if begin <= at <= end]


def output_of(*argv):
    """The output of a program, or None if it is missing or fails."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            universal_newlines=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def model():
    """The board's name for itself."""
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
    exit_codes = {}
    for name in sorted(plan["artifacts"]):
        codes = exit_codes.setdefault(name, [])
        for number, options in enumerate(plan["artifacts"][name]):
            argv = [plan["program"]] + [option.replace("{cache}", cache) for option in options]
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
        "nvpmodel": output_of("nvpmodel", "-q"),
    }
    with open(os.path.join(folder, "done.json"), "w") as file:
        json.dump({"codes": exit_codes, "device": facts}, file)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
