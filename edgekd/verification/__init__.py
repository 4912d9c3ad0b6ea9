"""Compares a file, run in its own runtime, with its network: outputs, layers, noise."""
