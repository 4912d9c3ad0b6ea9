"""The command line: parses arguments, calls the package and prints its results as text.

No other room prints or exits. Results go to stdout, everything else goes to stderr. A heavy package
is imported by the command that needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from edgekd.cli.bundles import bundle, diff
from edgekd.cli.calibration import calibrate, sensitivity
from edgekd.cli.files import export, verify
from edgekd.cli.init import init
from edgekd.cli.machines import devices, doctor, targets
from edgekd.cli.options import Verbose, echo, print_json, printed, verbose, with_verbose
from edgekd.cli.recipes import check, explain, report, route, run, schema
from edgekd.cli.timing import benchmark
from edgekd.cli.usage import usage_fault
from edgekd.errors import EdgekdError, Fault, InternalError, RecipeError, printable
from edgekd.system.disk_errors import disk_errors_explained
from edgekd.system.signals import signals_interrupt
from edgekd.system.version import VERSION

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
"""The commands in the order that --help lists them; each is named after its function."""

INTERRUPTED = 130

app = typer.Typer(
    name="edgekd",
    help="From a trained teacher to verified, measured model files for phones, boards and CPUs.",
    epilog="Start with edgekd init, which writes a recipe. edgekd help COMMAND explains a command.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    # rich's help and tracebacks double the time of `edgekd --help`.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(value: bool) -> None:
    if value:
        echo(f"edgekd {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Options before the command."""


def _first_sentence(text: str | None) -> str:
    """The first paragraph of a docstring, which the list of commands shows uncut."""
    return " ".join((text or "").partition("\n\n")[0].split())


for _command in COMMANDS:
    app.command(short_help=_first_sentence(_command.__doc__))(with_verbose(_command))


def _command_names() -> list[str]:
    return [command.__name__ for command in COMMANDS]


@app.command("help", short_help="Print the help of edgekd or of one command.")
def _help(
    command: Annotated[
        str | None,
        typer.Argument(help="The name of a command.", autocompletion=_command_names),
    ] = None,
) -> None:
    """Print the help of edgekd or of one command."""
    app([command, "--help"] if command else ["--help"], standalone_mode=False, prog_name="edgekd")


def main() -> None:
    """The program `edgekd`; it always ends with `sys.exit`."""
    with signals_interrupt() as received:
        _main(received)


def _main(signals: Sequence[int]) -> None:
    """The program; `signals` are those that interrupted it, besides Ctrl-C's."""
    from typer._click.exceptions import NoArgsIsHelpError, UsageError  # typer's copy of click

    printed.clear()
    verbose.clear()
    try:
        with disk_errors_explained():
            _answer_targets(sys.argv[1:])
            code = app(standalone_mode=False, prog_name="edgekd")
        if code == INTERRUPTED:  # typer returns this after Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code)
    except EdgekdError as error:
        _fail(error)
    except NoArgsIsHelpError as error:
        sys.stderr.write(f"{error.format_message()}\n")
        sys.exit(RecipeError.exit_code)
    except UsageError as error:
        _fail(usage_fault(error, sys.argv[1:]))
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\nstopped; run the same command again to continue\n")
        sys.exit(128 + signals[0] if signals else INTERRUPTED)  # As shells report it.
    except Exception as error:  # noqa: BLE001  a bug is reported like every other error
        verbose.append(True)
        _fail(_bug(error))


def _answer_targets(args: Sequence[str]) -> None:
    """Answers `edgekd targets [NAME]` without typer, which takes more than half of the time."""
    match args:
        case ["targets"]:
            targets()
            sys.exit(0)
        case ["targets", name] if not name.startswith("-"):
            targets(name)
            sys.exit(0)


def _bug(error: Exception) -> InternalError:
    bug = InternalError(
        Fault(
            what="edgekd stopped because of a bug in edgekd.",
            at="the traceback above",
            got=f"{type(error).__name__}: {error}",
            expected="a result, or a message that explains what is wrong with the input",
            fix="report it with the traceback and the output of: edgekd doctor --json",
        )
    )
    bug.__cause__ = error
    return bug


def _fail(error: EdgekdError) -> None:
    """Prints `error` and exits with its code; with -v, the traceback comes first."""
    if "--json" in sys.argv and not printed:
        faults = [vars(fault) for fault in error.faults]
        print_json({"passed": False, "exit_code": error.exit_code, "faults": faults})
    if verbose:
        _print_traceback(error)
    sys.stderr.write(f"{error}\n")
    sys.exit(error.exit_code)


def _print_traceback(error: EdgekdError) -> None:
    """Prints where `error` and its cause were raised."""
    import traceback

    if error.__cause__ is not None:
        sys.stderr.write(printable("".join(traceback.format_exception(error.__cause__))))
    if error.__traceback__ is not None:
        sys.stderr.write("Traceback (most recent call last):\n")
        traceback.print_tb(error.__traceback__)
