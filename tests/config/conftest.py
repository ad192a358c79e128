"""Recipes to load, and the message of a ConfigError."""

import pytest

from convmesh.errors import ConfigError


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe whose get_config() has these lines; returns its path."""

    def write(*lines, task="detect"):
        path = tmp_path / "recipe.py"
        body = [f"config = defaults({task!r})", *lines, "return config"]
        path.write_text(
            "from convmesh.config import defaults\n"
            "def get_config():\n" + "".join(f"    {line}\n" for line in body)
        )
        return path

    return write


@pytest.fixture
def refused():
    """Calls a function that must raise a ConfigError; returns its message, which is one line."""

    def message(function, *args):
        with pytest.raises(ConfigError) as caught:
            function(*args)
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return message
