"""Processes, files, the run store, installed packages, TOML: access to the machine."""
