"""Parses a command line into a `Call`.

Only the standard library is imported here, so that `--help` is fast.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NoReturn

from convmesh.cli.commands import COMMANDS, Command
from convmesh.cli.exit_status import EXIT_STATUS_HELP
from convmesh.cli.flags import COMMON_FLAGS, add_flags
from convmesh.errors import ConfigError, nearest

OVERRIDES_HELP = """\
--config.KEY=VALUE sets one key of the config, and can be given any number of times:
--config.train.steps=500 --config.data.image_size=192,256"""


@dataclass(frozen=True)
class Call:
    """A parsed command line. overrides: each as '--config.KEY=VALUE'."""

    command: Command
    args: argparse.Namespace
    overrides: tuple[str, ...]


def parse(argv: Sequence[str]) -> Call:
    """Parses the words after `convmesh`.

    Common flags may come before the command. Raises ConfigError for a wrong call, and SystemExit
    after --help, --help-config or --version was answered.
    """
    parser, parsers = _parsers()
    words = _command_first(list(argv))
    overrides: list[str] = []
    if words and words[0] in COMMANDS:
        overrides, words = _take_overrides(words)
        _check_flags(words, parsers[words[0]])
    args = parser.parse_args(words)
    command = COMMANDS[args.command]
    if overrides and not command.takes_overrides:
        reason = "; it uses the config of the workdir" if "workdir" in args else ""
        raise ConfigError(f"{command.name}: takes no --config.KEY{reason}")
    return Call(command, args, tuple(overrides))


class _Parser(argparse.ArgumentParser):
    """argparse that raises ConfigError where it would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


class _HelpConfig(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from convmesh.config import describe

        print(describe())
        parser.exit()


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        print(f"convmesh {version('convmesh')}")
        parser.exit()


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser of the command line, and that of each command by name."""
    parser = _Parser(
        prog="convmesh",
        description="Trains convolutional classifiers and detectors in JAX over a mesh of devices.",
        epilog=f"`convmesh COMMAND --help` lists the flags of a command.\n\n{EXIT_STATUS_HELP}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parsers = {}
    for command in COMMANDS.values():
        summary = command.summary
        parsers[command.name] = subparsers.add_parser(
            command.name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:\n  {command.example}\n\n{EXIT_STATUS_HELP}",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_flags_of(command, parsers[command.name])
    return parser, parsers


def _add_flags_of(command: Command, parser: _Parser) -> None:
    add_flags(parser, command.flags)
    if command.takes_overrides:
        group = parser.add_argument_group("overrides", OVERRIDES_HELP)
        group.add_argument(
            "--help-config", action=_HelpConfig, nargs=0, help="list all config keys and exit"
        )
    add_flags(parser, COMMON_FLAGS, "common flags")


# Not supported by argparse: flags before the command, --config.KEY=VALUE, the nearest name.


def _command_first(words: list[str]) -> list[str]:
    """`words` with the command moved in front of the common flags that come before it."""
    with_value = [flag.name for flag in COMMON_FLAGS if flag.takes_value]
    start = 0
    while start < len(words) and words[start].startswith("-"):
        start += 2 if words[start] in with_value else 1
    before, name, after = words[:start], words[start : start + 1], words[start + 1 :]
    known = ", ".join(COMMANDS)
    if not name:
        if {"-h", "--help", "--version"} & set(before):
            return before
        raise ConfigError(f"no command given; one of {known} (see convmesh --help)")
    if name[0] not in COMMANDS:
        hint = nearest(name[0], COMMANDS) or f"; one of {known}"
        raise ConfigError(f"{name[0]}: no such command{hint}")
    return [*name, *before, *after]


def _take_overrides(words: list[str]) -> tuple[list[str], list[str]]:
    """The overrides in `words`, each as --config.KEY=VALUE, and the other words."""
    overrides, rest = [], []
    remaining = iter(words)
    for word in remaining:
        if word == "--":
            rest += [word, *remaining]
        elif not word.startswith("--config."):
            rest.append(word)
        elif "=" in word:
            overrides.append(word)
        else:
            value = next(remaining, None)
            if value is None or value.startswith("--"):
                raise ConfigError(f"{word}: no value given; write {word}=VALUE")
            overrides.append(f"{word}={value}")
    return overrides, rest


def _check_flags(words: list[str], parser: _Parser) -> None:
    """Raises ConfigError for a flag that the command does not have, with the nearest one."""
    known = [flag for flag in parser._option_string_actions if flag.startswith("--")]
    hidden = [flag.hidden_alias for flag in COMMANDS[words[0]].flags]
    for word in words:
        if word == "--":
            return
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            listed = [name for name in known if name not in hidden]
            hint = nearest(flag, listed) or f" (see {parser.prog} --help)"
            raise ConfigError(f"{flag}: {parser.prog} has no such flag{hint}")
