"""`python -m edgekd`: the command line."""

import runpy

runpy.run_module("edgekd.cli", run_name="__main__", alter_sys=True)
