"""Fake quantization in torch: simulates the quantizer of a format, with gradients."""
