"""Writes a network as a file of a format in a precision, in worker processes."""
