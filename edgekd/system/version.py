"""The version of edgekd: pyproject.toml and CHANGELOG.md state the same."""

VERSION = "0.1.0"
