"""The structure of src/convmesh: floors of imports, no cycles, short files and functions.

Read from the source with `ast`; nothing is imported. Imports inside functions count too. Those
under TYPE_CHECKING count for the floors, not for cycles: two classes may name each other's type.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "convmesh"

# From bottom to top. What is in the package's root may import only what is on a lower floor; names
# on one floor do not import each other. `__init__` and `__main__` may import everything.
FLOORS = [
    {"errors", "geometry", "programs"},
    {"config", "distributed"},
    {"data", "mesh"},
    {"ops", "workdir"},
    {"models", "plots", "weights"},
    {"tasks"},
    {"steps"},
    {"inference"},
    {"training"},
    {"export"},
    {"bench", "plan"},
    {"cli"},
    {"__init__", "__main__"},
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}

MOST_ENTRIES = 23  # files and folders in src/convmesh
MOST_LINES = 500  # of a file
MOST_FUNCTION_LINES = 60
MOST_PARAMETERS = 6
# Functions that are tables: as long as what they list. PATH:NAME.
TABLES: set[str] = set()
# Arrays and their layouts are passed one by one in these folders.
MANY_PARAMETERS = ("ops", "models")
INIT_WITH_CODE = {"__init__.py", "config/__init__.py"}


@functools.cache
def parsed(root: Path) -> dict[str, ast.Module]:
    """The syntax tree of each file, by its path relative to `root`."""
    paths = sorted(root.rglob("*.py"))
    return {path.relative_to(root).as_posix(): ast.parse(path.read_text()) for path in paths}


def module_name(path: str) -> str:
    """The dotted name of a module below the root package: data/record.py is data.record.

    A package is named like its folder; the root package is __init__.
    """
    name = path.removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")


@functools.cache
def imports(root: Path, types: bool = True) -> dict[str, set[str]]:
    """For each module the modules of the package that it imports; `types`: for types alone, too."""
    modules = {module_name(path) for path in parsed(root)}
    found: dict[str, set[str]] = {}
    for path, tree in parsed(root).items():
        names = {resolve(target, modules) for target in imported(tree, path, types)}
        found[module_name(path)] = names - {module_name(path)}
    return found


def imported(tree: ast.Module, path: str, types: bool) -> Iterator[str]:
    """Dotted names, below the root package, of the modules and names that a file imports."""
    package = ["convmesh", *path.split("/")[:-1]]
    for_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
    }
    for node in ast.walk(tree):
        if node in for_types and not types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            names = [f"{start}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == "convmesh":
                yield name.partition(".")[2]


def resolve(name: str, modules: set[str]) -> str:
    """The module that a dotted name is, or is a name of; __init__ for one of the root package."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or "__init__"


def upward_imports(root: Path) -> list[str]:
    """Imports between entries of the root package that do not point to a lower floor."""
    return [
        f"{module} imports {target}"
        for module, targets in sorted(imports(root).items())
        for target in sorted(targets)
        if top(module) != top(target) and FLOOR[top(target)] >= FLOOR[top(module)]
    ]


def top(module: str) -> str:
    """The entry of the root package that a module is in."""
    return module.partition(".")[0]


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """The nodes from which a path leads back to themselves."""

    def reachable(node: str) -> set[str]:
        found: set[str] = set()
        todo = [node]
        while todo:
            new = graph.get(todo.pop(), set()) - found
            found |= new
            todo += new
        return found

    return sorted(node for node in graph if node in reachable(node))


def folders(root: Path) -> dict[str, set[str]]:
    """Imports between the folders and modules inside packages: data.formats, data.record, ..."""

    def folder(module: str) -> str:
        return ".".join(module.split(".")[:2])

    graph: dict[str, set[str]] = {}
    for module, targets in imports(root, types=False).items():
        graph.setdefault(folder(module), set()).update(map(folder, targets))
    return {node: targets - {node} for node, targets in graph.items()}


def functions(root: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """PATH:NAME of each function and method, its node, and whether it takes self or cls."""
    for path, tree in parsed(root).items():
        methods = {
            child
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            for child in node.body
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            and not any(ast.unparse(d) == "staticmethod" for d in child.decorator_list)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path}:{node.name}", node, node in methods


def long_functions(root: Path) -> list[str]:
    """Functions of too many lines, from `def` to the last, that are no tables."""
    lengths = {name: node.end_lineno - node.lineno + 1 for name, node, _ in functions(root)}
    return [
        f"{name}: {n} lines"
        for name, n in lengths.items()
        if n > MOST_FUNCTION_LINES and name not in TABLES
    ]


def crowded_functions(root: Path) -> list[str]:
    """Functions of too many parameters, without self and cls, outside MANY_PARAMETERS."""
    found = []
    for name, node, takes_self in functions(root):
        arguments = node.args
        count = len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]) - takes_self
        count += (arguments.vararg is not None) + (arguments.kwarg is not None)
        if count > MOST_PARAMETERS and not name.startswith(tuple(f"{m}/" for m in MANY_PARAMETERS)):
            found.append(f"{name}: {count} parameters")
    return found


def init_files_with_code(root: Path) -> list[str]:
    """`__init__` files that hold anything but those that hand names on."""
    return [
        path
        for path, tree in parsed(root).items()
        if path.endswith("__init__.py") and tree.body and path not in INIT_WITH_CODE
    ]


def test_the_package_has_few_entries_each_on_a_floor():
    entries = {path.name for path in SOURCE.iterdir()} - {"__pycache__"}
    assert len(entries) <= MOST_ENTRIES
    assert {Path(name).stem for name in entries} - {"py"} <= FLOOR.keys()


def test_imports_between_packages_point_down():
    assert upward_imports(SOURCE) == []


def test_modules_do_not_import_each_other_in_a_cycle():
    assert cycles(imports(SOURCE, types=False)) == []


def test_folders_inside_packages_do_not_import_each_other_in_a_cycle():
    assert cycles(folders(SOURCE)) == []


def test_files_are_short():
    lengths = {path: len((SOURCE / path).read_text().splitlines()) for path in parsed(SOURCE)}
    assert {path: n for path, n in lengths.items() if n > MOST_LINES} == {}


def test_test_files_have_names_of_their_own():
    """Two of one name cannot be collected together: they would be one module."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)


def test_functions_are_short():
    assert long_functions(SOURCE) == []


def test_functions_have_few_parameters():
    assert crowded_functions(SOURCE) == []


def test_tables_are_still_long_functions():
    found = {name for name, node, _ in functions(SOURCE)}
    assert TABLES <= found


def test_init_files_are_empty():
    assert init_files_with_code(SOURCE) == []


# The checks themselves, on a small package that breaks every rule.


@pytest.fixture
def package(tmp_path):
    """A package in which data imports training, two modules import each other, and so on."""
    many = ", ".join("abcdefg")
    files = {
        "__init__.py": "from convmesh.training.loop import train",
        "errors.py": "",
        "mesh.py": "from convmesh.errors import ConfigError",
        "data/__init__.py": "x = 1",
        "data/record.py": "def f():\n    from convmesh.training import loop\n" + "    x = 1\n" * 60,
        "data/formats/a.py": "from ..loading import b",
        "data/loading/b.py": "from convmesh.data.formats.a import name",
        "data/hook.py": "if TYPE_CHECKING:\n    from convmesh.data.run import Run",
        "data/run.py": "from convmesh.data.hook import Hook",
        "ops/conv.py": f"def f({many}): ...",
        "training/__init__.py": "",
        "training/loop.py": "from convmesh import mesh, train\n"
        f"class A:\n def f(self, {many}): ...",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_imports_are_found_in_every_form(package):
    found = imports(package)
    assert found["mesh"] == {"errors"}
    assert found["data.formats.a"] == {"data.loading.b"}
    assert found["data.loading.b"] == {"data.formats.a"}
    assert found["training.loop"] == {"mesh", "__init__"}
    assert found["__init__"] == {"training.loop"}
    assert found["data.hook"] == {"data.run"}
    assert imports(package, types=False)["data.hook"] == set()


def test_each_check_finds_what_it_forbids(package):
    assert upward_imports(package) == [
        "data.record imports training.loop",
        "training.loop imports __init__",
    ]
    of_modules = ["__init__", "data.formats.a", "data.loading.b", "training.loop"]
    assert cycles(imports(package, types=False)) == of_modules
    of_folders = ["__init__", "data.formats", "data.loading", "training.loop"]
    assert cycles(folders(package)) == of_folders
    assert long_functions(package) == ["data/record.py:f: 62 lines"]
    assert crowded_functions(package) == ["training/loop.py:f: 7 parameters"]
    assert init_files_with_code(package) == ["data/__init__.py"]
