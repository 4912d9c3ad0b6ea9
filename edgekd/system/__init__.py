"""Processes, files, the run store, installed packages, TOML: what edgekd asks of the machine."""
