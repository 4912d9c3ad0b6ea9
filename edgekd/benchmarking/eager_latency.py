"""How long networks take in PyTorch itself, on this machine: what a teacher is to its student."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping

import torch

from edgekd.network.network import Network, call

WARM_UP, LEAST, MOST = 3, 10, 200
"""Calls of each network before those that count, and of these."""

WITHIN_S = 2.0
"""No more calls than `LEAST` are made after so long."""


def pytorch_latency_ms(networks: Mapping[str, Network]) -> dict[str, float]:
    """By name, the median time in ms of one call on the example, on one thread of this CPU.

    Calls of the networks alternate, so that what else the machine does meets all of them. It is no
    device's latency: no converter or runtime has had its part in it.

    Each has its own example: what was folded into one of them takes camera images.
    """
    ready = {
        name: (copy.deepcopy(network.module).cpu().eval(), dict(network.example))
        for name, network in networks.items()
    }
    found: dict[str, list[float]] = {name: [] for name in networks}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began = time.monotonic()
    try:
        with torch.no_grad():
            for number in range(WARM_UP + MOST):
                for name, (module, inputs) in ready.items():
                    start = time.perf_counter_ns()
                    call(module, inputs)
                    took = time.perf_counter_ns() - start
                    if number >= WARM_UP:
                        found[name].append(took / 1e6)
                if number >= WARM_UP + LEAST and time.monotonic() - began > WITHIN_S:
                    break
    finally:
        torch.set_num_threads(threads)
    return {name: statistics.median(times) for name, times in found.items()}
