"""`python -m edgekd.cli`, which torchrun starts."""

from edgekd.cli import main

main()
