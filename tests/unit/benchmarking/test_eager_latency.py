"""Latencies of networks in PyTorch, measured alternately."""

from __future__ import annotations

import torch
from torch import nn

from edgekd.benchmarking.eager_latency import pytorch_latency_ms
from edgekd.network.network import as_network


class Counted(nn.Module):
    """Records the threads and the training mode of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.calls: list[tuple[int, bool]] = []

    def __deepcopy__(self, memo: object) -> Counted:
        copied = Counted()
        copied.calls = self.calls
        return copied

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append((torch.get_num_threads(), self.training))
        return self.layer(x)


def test_networks_are_called_equally_often_on_one_thread_and_not_changed() -> None:
    class Renamed(Counted):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image)

    networks = {
        "student": as_network(Counted(), {"x": torch.zeros(1, 3)}),
        "teacher": as_network(Renamed(), {"image": torch.zeros(1, 3)}),
    }
    for network in networks.values():
        network.module.calls.clear()
        network.module.train()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = pytorch_latency_ms(networks)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert list(found) == ["student", "teacher"]
    assert all(took > 0 for took in found.values())
    calls = [network.module.calls for network in networks.values()]
    assert len(calls[0]) == len(calls[1]) > 10
    assert set(calls[0] + calls[1]) == {(1, False)}
    assert all(network.module.training for network in networks.values())


def test_without_networks_there_is_nothing_to_time() -> None:
    assert pytorch_latency_ms({}) == {}
