"""Finds, lists and runs recipes: Python files that return a config."""

import ast
import importlib
import linecache
import os
import re
import sys
import traceback
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from convmesh.config.keys import unknown_key
from convmesh.config.tree import flatten
from convmesh.errors import ConfigError, nearest

_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Recipe:
    """A packaged recipe. summary: the first line of its docstring."""

    name: str
    path: Path
    summary: str


def recipe_folder() -> Path:
    """The folder of the packaged recipes: `configs/` in a checkout, else inside the package."""
    checkout = _PACKAGE.parents[1] / "configs"
    in_checkout = _PACKAGE.parent.name == "src" and checkout.is_dir()
    return checkout if in_checkout else _PACKAGE / "recipes"


def list_recipes() -> list[Recipe]:
    """The packaged recipes, by name."""
    return [
        Recipe(path.stem, path, _summary(path)) for path in sorted(recipe_folder().glob("*.py"))
    ]


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    return docstring.partition("\n")[0]


def find_recipe(recipe: str | os.PathLike[str]) -> Path:
    """The file of a recipe that is given by name or as a file.

    A name without `.py` and without a path separator, such as 'detect', is a packaged recipe.
    Raises ConfigError, with the nearest name or file, if there is no such recipe.
    """
    text = os.path.expanduser(recipe)
    path = Path(text)
    packaged = {file.stem: file for file in recipe_folder().glob("*.py")}
    is_name = path.suffix != ".py" and os.sep not in text
    if is_name and text in packaged:
        return packaged[text]
    if path.is_file():
        return path
    files = [str(file) for file in path.parent.glob("*.py")]
    if is_name:
        hint = nearest(text, packaged) or nearest(f"{text}.py", files)
        raise ConfigError(f"{text}: no such recipe{hint or '; `convmesh recipes` lists them'}")
    hint = nearest(str(path), files)
    if not hint and path.stem in packaged:
        hint = f"; did you mean the packaged recipe {path.stem}?"
    raise ConfigError(f"{path}: no such recipe file{hint}")


def run_recipe(path: Path) -> dict[str, Any]:
    """The config that the recipe's `get_config()` returns, by dotted key.

    While it runs, the recipe can import the modules of its own folder. Raises ConfigError if it
    fails or returns no config.
    """
    module = types.ModuleType(f"recipe:{path.stem}")
    module.__file__ = str(path)
    with _recipe_imports(path.resolve().parent), _registered(module):
        try:
            exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
        except (Exception, SystemExit) as error:
            raise _recipe_failed(path, error) from error
        get_config = getattr(module, "get_config", None)
        if not callable(get_config):
            raise ConfigError(
                f"{path}: has no get_config(); a recipe defines it to return a config"
            )
        try:
            config = get_config()
            if isinstance(config, Mapping | ConfigDict):
                return dict(flatten(config))
        except (Exception, SystemExit) as error:
            raise _recipe_failed(path, error) from error
    raise ConfigError(
        f"{path}: get_config() returned {type(config).__name__}, wanted a config; "
        "create it with convmesh.config.defaults(task) and return it"
    )


@contextmanager
def _registered(module: types.ModuleType) -> Iterator[None]:
    """Keeps the module in sys.modules, where `dataclasses` looks it up, until the block ends."""
    before = sys.modules.get(module.__name__)  # a recipe may load another of the same name
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        sys.modules.pop(module.__name__, None)
        if before is not None:
            sys.modules[module.__name__] = before


@contextmanager
def _recipe_imports(folder: Path) -> Iterator[None]:
    """Makes the modules of `folder` importable, and removes them when the block ends.

    A loaded module that has the name of one in `folder` is hidden until then, so that recipes in
    two folders can each have a module of the same name.
    """
    hidden = {
        name: module
        for name, module in sys.modules.items()
        if _hides(folder, name) and not _is_from(folder, name, module)
    }
    for name in hidden:
        del sys.modules[name]
    loaded, path, no_bytecode = set(sys.modules), list(sys.path), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True  # nothing is written to the recipe's folder
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, no_bytecode
        for name in set(sys.modules) - loaded:
            if _is_from(folder, name, sys.modules[name]):
                del sys.modules[name]
        sys.modules.update(hidden)


def _hides(folder: Path, name: str) -> bool:
    """Whether a module in `folder` takes the place of the loaded module `name`."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("convmesh", "__main__"):
        return False
    return (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()


def _is_from(folder: Path, name: str, module: types.ModuleType) -> bool:
    """Whether the module `name` was imported from `folder`, not from an environment in it."""
    top = name.partition(".")[0]
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
    return Path(file) in (folder / f"{top}.py", folder / top) or folder / top in Path(file).parents


def _recipe_failed(path: Path, error: BaseException) -> ConfigError:
    """The error of a recipe, with its line, and with the nearest key if it set an unknown one."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    line = lines[-1] if lines else None
    text = str(error)
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line, text = error.lineno, error.msg
    where = f"{path}:{line}" if line else str(path)
    if isinstance(error, ConfigError):
        return ConfigError(f"{where}: {error}")
    from_config_dict = frames and "ml_collections" in Path(frames[-1].filename).parts
    if isinstance(error, AttributeError | KeyError) and from_config_dict and line:
        name = _unknown_key_in(str(error), path, line)
        if name:
            return ConfigError(f"{where}: {unknown_key(name)}")
    first_line = text.strip().partition("\n")[0]
    return ConfigError(f"{where}: {type(error).__name__}: {first_line}")


def _unknown_key_in(message: str, path: Path, line: int) -> str:
    """The dotted key that ConfigDict refused, or '' if its message names none.

    The message has the last part of the key only; the line of the recipe has all of it.
    """
    # ConfigDict wraps one error in another, and so escapes the quotes.
    found = re.search(r"""Key "(\w+)"|'(\w+)'""", message.replace("\\", ""))
    if not found:
        return ""
    leaf = found[1] or found[2]
    linecache.checkcache(str(path))
    dotted = re.search(rf"\w[\w.]*\.{leaf}\b[\w.]*", linecache.getline(str(path), line))
    return dotted[0].partition(".")[2] if dotted else leaf
