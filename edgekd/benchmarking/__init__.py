"""Measure the latency of artifacts on a device, and count instructions on emulated cores."""
