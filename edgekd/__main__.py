"""`python -m edgekd`: the command line."""

from edgekd.cli import main

main()
