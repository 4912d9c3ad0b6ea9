"""Words on a command line to calls of this package, and what came of them to text.

The only room that prints or exits. Results go to stdout, everything else to stderr. Nothing heavy
is imported before a command needs it.
"""

from __future__ import annotations

import sys

import typer

from edgekd.cli.bundles import bundle, diff
from edgekd.cli.calibration import calibrate, sensitivity
from edgekd.cli.files import export, verify
from edgekd.cli.machines import devices, doctor, targets
from edgekd.cli.options import print_json, printed
from edgekd.cli.recipes import check, explain, init, report, route, run, schema
from edgekd.cli.timing import benchmark
from edgekd.cli.usage import usage_fault
from edgekd.errors import EdgekdError, Fault, InternalError

COMMANDS = (
    init,
    check,
    explain,
    calibrate,
    run,
    report,
    route,
    export,
    verify,
    sensitivity,
    benchmark,
    bundle,
    diff,
    targets,
    doctor,
    devices,
    schema,
)
"""The commands, in the order --help lists them; each is named as its function."""

INTERRUPTED = 130

app = typer.Typer(
    name="edgekd",
    help="From a trained teacher to verified, measured model files for phones, boards and CPUs.",
    no_args_is_help=True,
    add_completion=False,
    # rich's help and tracebacks cost as much time as all else `edgekd --help` does.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _command in COMMANDS:
    app.command()(_command)


def main() -> None:
    """The program `edgekd`; it always ends by `sys.exit`."""
    from typer._click.exceptions import UsageError  # typer carries its own copy of click

    try:
        # typer imports pydantic to read any word, more than half the time of this answer.
        match sys.argv[1:]:
            case ["targets"]:
                targets()
                sys.exit(0)
            case ["targets", name] if not name.startswith("-"):
                targets(name)
                sys.exit(0)
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer answers Ctrl-C so
            raise KeyboardInterrupt
        sys.exit(code)
    except EdgekdError as error:
        _fail(error)
    except UsageError as error:
        _fail(usage_fault(error, sys.argv[1:]))
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\nstopped; the same command goes on where it was\n")
        sys.exit(INTERRUPTED)
    except Exception as error:  # noqa: BLE001  a bug is told like every other stop
        import traceback

        traceback.print_exc()
        _fail(
            InternalError(
                Fault(
                    what="edgekd stopped on an error of its own.",
                    at="the traceback above",
                    got=f"{type(error).__name__}: {error}",
                    expected="a result, or a message that says what is wrong with the input",
                    fix="report it with the traceback and the output of: edgekd doctor --json",
                )
            )
        )


def _fail(error: EdgekdError) -> None:
    if "--json" in sys.argv and not printed:
        faults = [vars(fault) for fault in error.faults]
        print_json({"passed": False, "exit_code": error.exit_code, "faults": faults})
    sys.stderr.write(f"{error}\n")
    sys.exit(error.exit_code)
