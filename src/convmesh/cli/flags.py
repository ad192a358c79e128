"""Command line flags as data, and the checks of their values.

Only the standard library is imported here, so that `--help` is fast.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from convmesh.data.stores.object_store import is_url


@dataclass(frozen=True)
class Flag:
    """One flag of a command, or a positional argument if `name` does not begin with '--'.

    metavar: name of the value in --help; '' if the flag is a switch or has `choices`.
    parse: converts the text of the value. many: takes one value or more.
    excludes: flags of a command with the same non-empty `excludes` cannot be given together.
    hidden_alias: another name that works but that --help does not list.
    """

    name: str
    help: str
    metavar: str = ""
    parse: Callable[[str], Any] = str
    default: Any = None
    required: bool = False
    choices: tuple[str, ...] = ()
    many: bool = False
    excludes: str = ""
    hidden_alias: str = ""

    @property
    def takes_value(self) -> bool:
        """Whether a value follows; otherwise it is a switch."""
        return bool(self.metavar or self.choices)


def file_path(text: str) -> str:
    """A path, with `~` for the home folder, which the shell leaves alone after `=`.

    Raises argparse.ArgumentTypeError for an address, which would be taken for a folder's name.
    """
    if is_url(text):
        raise argparse.ArgumentTypeError(f"{text}: is an address; this must be a path")
    return os.path.expanduser(text)


def workdir_path(text: str) -> str:
    """As `file_path`, or the address of a workdir in an object store."""
    return text if is_url(text) else file_path(text)


def positive_int(text: str) -> int:
    """An integer of at least 1; raises argparse.ArgumentTypeError otherwise."""
    return _int_at_least(1, text)


def non_negative_int(text: str) -> int:
    """An integer of at least 0; raises argparse.ArgumentTypeError otherwise."""
    return _int_at_least(0, text)


def seconds_until_lost(text: str) -> int:
    """An integer of at least 3; raises argparse.ArgumentTypeError otherwise."""
    return _int_at_least(3, text)


def fraction(text: str) -> float:
    """A number from 0 to 1; raises argparse.ArgumentTypeError otherwise."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 1.0:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a number from 0 to 1")
    return number


def positive_float(text: str) -> float:
    """A number above 0; raises argparse.ArgumentTypeError otherwise."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a number above 0")
    return number


def batch_size(text: str) -> int | None:
    """An integer of at least 1, or None for `dynamic`; raises argparse.ArgumentTypeError."""
    if text == "dynamic":
        return None
    try:
        return positive_int(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or dynamic") from None


def sides(text: str) -> tuple[int, int]:
    """Height and width as HEIGHT,WIDTH; raises argparse.ArgumentTypeError otherwise."""
    height, comma, width = text.partition(",")
    try:
        return positive_int(height), positive_int(width if comma else height)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted HEIGHT,WIDTH") from None


def _int_at_least(low: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if number < low:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted an integer, at least {low}")
    return number


COMMON_FLAGS = (
    Flag(
        "--cpu-devices",
        "simulate N devices on the CPU (in each process), to try a mesh",
        metavar="N",
        parse=positive_int,
    ),
    Flag(
        "--num-processes",
        "number of processes of the run; given alone, all N are started on this machine",
        metavar="N",
        parse=positive_int,
    ),
    Flag(
        "--coordinator",
        "address on which process 0 listens for the others, if no cluster provides it",
        metavar="HOST:PORT",
    ),
    Flag(
        "--process-id",
        "which of the processes this is, from 0",
        metavar="I",
        parse=non_negative_int,
    ),
    Flag(
        "--start-timeout",
        "how long the processes wait for each other at the start (300)",
        metavar="SECONDS",
        parse=positive_int,
    ),
    Flag(
        "--lost-after",
        "a process without a sign of life for so long is lost, and all end with status 76 (30)",
        metavar="SECONDS",
        parse=seconds_until_lost,
    ),
    Flag(
        "--hung-after",
        "no step, evaluation or save is called hung before, and all ended with status 77; each may "
        "take 20 times the median of its kind (300; 0: never hung, as for a debugger)",
        metavar="SECONDS",
        parse=non_negative_int,
    ),
    Flag("--debug", "show the traceback of an error"),
)


def add_flags(parser: argparse.ArgumentParser, flags: Sequence[Flag], title: str = "") -> None:
    """Adds flags to an argparse parser, in a group of their own if `title` is given."""
    target = parser.add_argument_group(title) if title else parser
    exclusive: dict[str, Any] = {}
    for flag in flags:
        if flag.excludes and flag.excludes not in exclusive:
            exclusive[flag.excludes] = target.add_mutually_exclusive_group()
        _add_flag(exclusive.get(flag.excludes, target), flag)


def _add_flag(target: Any, flag: Flag) -> None:
    options: dict[str, Any] = {"help": flag.help}
    if flag.takes_value:
        options |= {"type": flag.parse, "default": flag.default}
        options |= {"metavar": flag.metavar} if flag.metavar else {}
        options |= {"choices": flag.choices} if flag.choices else {}
        options |= {"nargs": "+"} if flag.many else {}
    else:
        options["action"] = "store_true"
    if flag.name.startswith("--"):
        options["required"] = flag.required
    target.add_argument(flag.name, **options)
    if flag.hidden_alias:
        options |= {"help": argparse.SUPPRESS, "required": False}
        dest = flag.name.removeprefix("--").replace("-", "_")
        target.add_argument(flag.hidden_alias, dest=dest, **options)
