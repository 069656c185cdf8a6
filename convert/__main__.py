"""The converter's command line: `python -m convert --help`."""
# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import light  # noqa: F401  # before anything of the library

# isort: split
from mobilenets.errors import MobileNetError

from . import console
from .commands import commands
from .garbage import collect_rarely

# The package's name when it is installed, with the command `mobilenets` (see pyproject.toml).
_INSTALLED = "mobilenets_convert"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: Arguments without the program's name; None takes those of the process.

    Returns:
      0 on success, 1 where some of several conversions failed, 2 for a user's mistake.
    """
    parser = _parser()
    try:
        import argcomplete

        argcomplete.autocomplete(parser)
    except ImportError:
        pass
    if arguments is None:
        arguments = sys.argv[1:]
        # The process is the command's alone.
        collect_rarely()
    if empty := _empty(arguments):
        return console.fail(f"{empty} is empty: is a variable of the shell not set?")
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except MobileNetError as error:
        return console.fail(error, options.parser)
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return console.fail(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        console.stopped()
        return 130


def _empty(arguments: Sequence[str]) -> str | None:
    """Which argument is empty or blank: as a path it would be the working directory."""
    before = None
    for argument in arguments:
        option, given, value = argument.partition("=")
        if option.startswith("--") and given and not value.strip():
            return option
        if not argument.strip():
            return f"the argument after {before}" if before else "the first argument"
        before = argument
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mobilenets" if __package__ == _INSTALLED else f"python -m {__package__}",
        description="Convert TF-Slim MobileNet checkpoints to reusable TensorFlow 2 SavedModels.",
    )
    found = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in commands().items():
        description = f"{module.HELP[0].upper()}{module.HELP[1:]}."
        command = found.add_parser(name, help=module.HELP, description=description)
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
