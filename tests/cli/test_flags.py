"""Flags as data."""

import argparse

import pytest

from convmesh.cli.commands import COMMANDS
from convmesh.cli.flags import (
    Flag,
    add_flags,
    file_path,
    fraction,
    non_negative_int,
    positive_int,
    workdir_path,
)


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (positive_int, {"1": 1, "30": 30}, ("0", "-1", "1.5", "x", "")),
        (non_negative_int, {"0": 0, "7": 7}, ("-1", "1.5", "x")),
        (fraction, {"0": 0.0, "0.25": 0.25, "1": 1.0}, ("-0.1", "1.1", "nan", "inf", "x")),
    ],
)
def test_a_value_is_converted_or_refused(parse, good, bad):
    assert {text: parse(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f"got '{text}', wanted a"):
            parse(text)


def test_a_path_may_begin_with_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = ("~/runs/a", "~", "runs/~a", "~nobody_of_this_name/a", "")
    assert [file_path(text) for text in given] == ["/home/me/runs/a", "/home/me", *given[2:]]


def test_every_path_of_a_command_may():
    flags = [flag for command in COMMANDS.values() for flag in command.flags]
    paths = [flag for flag in flags if flag.metavar in ("DIR", "FILE", "OUT", "PATH")]
    assert len(paths) > 10 and all(flag.parse in (file_path, workdir_path) for flag in paths)


def test_only_a_workdir_may_be_an_address(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert workdir_path("s3://bucket/run") == "s3://bucket/run"
    assert workdir_path("~/runs") == "/home/me/runs"
    with pytest.raises(argparse.ArgumentTypeError, match="s3://bucket/out: is an address"):
        file_path("s3://bucket/out")
    flags = [flag for command in COMMANDS.values() for flag in command.flags]
    assert all(flag.parse is workdir_path for flag in flags if flag.name == "--workdir")


def parser(*flags):
    made = argparse.ArgumentParser(exit_on_error=False)
    add_flags(made, flags)
    return made


def test_each_form_of_a_flag():
    made = parser(
        Flag("--count", "a number", "N", parse=positive_int, default=3),
        Flag("--name", "a name", "NAME", required=True),
        Flag("--with", "a choice", choices=("a", "b")),
        Flag("--switch", "a switch"),
        Flag("paths", "files", "PATH", many=True),
    )
    args = made.parse_args(["x", "y", "--name", "n"])
    assert vars(args) == {
        **{"count": 3, "name": "n", "with": None, "switch": False, "paths": ["x", "y"]},
    }
    args = made.parse_args(["x", "--name", "n", "--count", "5", "--with", "b", "--switch"])
    assert (args.count, getattr(args, "with"), args.switch) == (5, "b", True)


def test_flags_that_exclude_each_other():
    made = parser(
        Flag("--one", "", excludes="group"),
        Flag("--two", "", excludes="group"),
        Flag("--three", ""),
    )
    assert made.parse_args(["--one", "--three"]).one
    with pytest.raises(argparse.ArgumentError, match="not allowed with argument --one"):
        made.parse_args(["--one", "--two"])


def test_a_hidden_alias_sets_the_flag_and_is_not_listed():
    made = parser(Flag("--new-name", "a file", "FILE", hidden_alias="--old-name"))
    assert made.parse_args(["--old-name", "x"]).new_name == "x"
    assert made.parse_args(["--new-name", "x"]).new_name == "x"
    assert made.parse_args([]).new_name is None
    assert "--old-name" not in made.format_help()
