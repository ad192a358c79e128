"""The table of commands."""

import inspect
import shlex

import pytest

from convmesh.cli.commands import COMMANDS
from convmesh.cli.parser import parse


@pytest.mark.parametrize("name", COMMANDS)
def test_the_function_of_a_command_takes_its_flags_and_overrides(name):
    function = COMMANDS[name].load()
    assert list(inspect.signature(function).parameters) == ["args", "overrides"]
    assert function.__doc__.startswith(f"`convmesh {name}`")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_is_a_valid_call(name):
    program, *words = shlex.split(COMMANDS[name].example)
    call = parse(words)
    assert (program, call.command.name) == ("convmesh", name)
    if "config" in call.args:
        from convmesh.config import find_recipe, parse_overrides

        assert find_recipe(call.args.config).is_file()
        parse_overrides(call.overrides)
