"""Fake quantization in torch: where each format rounds, simulated with gradients."""
