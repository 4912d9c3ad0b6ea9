"""Latency of networks in PyTorch (eager) on this machine, to compare teacher and student."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping

import torch

from edgekd.network.network import Network, call

WARM_UP, LEAST, MOST = 3, 10, 200
"""Warm-up calls of each network, and the least and the most timed calls."""

WITHIN_S = 2.0
"""After this time, no network is called more than `LEAST` times."""


def pytorch_latency_ms(networks: Mapping[str, Network]) -> dict[str, float]:
    """The median latency in ms of a call on the example, on one thread of this CPU, by name.

    Calls of the networks alternate, so that other load on the machine affects all alike. This is
    not a device's latency: no converter or runtime takes part.

    Each network is called on its own example, since one may embed its preprocessing.
    """
    ready = {
        name: (copy.deepcopy(network.module).cpu().eval(), dict(network.example))
        for name, network in networks.items()
    }
    times_ms: dict[str, list[float]] = {name: [] for name in networks}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start_s = time.monotonic()
    try:
        with torch.no_grad():
            for number in range(WARM_UP + MOST):
                for name, (module, inputs) in ready.items():
                    start_ns = time.perf_counter_ns()
                    call(module, inputs)
                    elapsed_ns = time.perf_counter_ns() - start_ns
                    if number >= WARM_UP:
                        times_ms[name].append(elapsed_ns / 1e6)
                if number >= WARM_UP + LEAST and time.monotonic() - start_s > WITHIN_S:
                    break
    finally:
        torch.set_num_threads(threads)
    return {name: statistics.median(times) for name, times in times_ms.items()}
