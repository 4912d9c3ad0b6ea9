"""Drivers and parsers of benchmark_model and trtexec."""
