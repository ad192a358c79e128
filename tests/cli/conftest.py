"""Calls of the command line: what it passes on is recorded, not run."""

from types import SimpleNamespace

import pytest

from convmesh.cli import command_line

STUBBED = {
    "convmesh.training.loop": "train",
    "convmesh.training.overfit": "overfit",
    "convmesh.inference.evaluation": "evaluate",
    "convmesh.inference.prediction": "predict_files",
    "convmesh.inference.weight_import": "import_weights",
    "convmesh.inference.weight_export": "export_weights",
}


@pytest.fixture
def calls(monkeypatch):
    """Replaces training, evaluation and prediction; records how they are called.

    Set `calls.error` to an exception, and the command raises it.
    """
    record = SimpleNamespace(made=[], error=None)

    def stub(name):
        def called(*args, **kwargs):
            record.made.append((name, args, kwargs))
            if record.error is not None:
                raise record.error

        return called

    for module, function in STUBBED.items():
        monkeypatch.setattr(f"{module}.{function}", stub(function))
    return record


@pytest.fixture
def recipe(tmp_path):
    """The path of a complete recipe."""
    path = tmp_path / "recipe.py"
    path.write_text(
        "from convmesh.config import defaults\n"
        "def get_config():\n"
        "    config = defaults('detect')\n"
        "    config.model.name = 'm'\n"
        "    config.data.root = '/data'\n"
        "    return config\n"
    )
    return str(path)


@pytest.fixture
def workdir(tmp_path):
    """The path of a folder that looks like a workdir."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.json").write_text("{}")
    return str(path)


@pytest.fixture
def failed(capsys):
    """Runs a call that must fail; returns its exit status and its one line on stderr."""

    def run(*argv):
        status = command_line.main(argv)
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        return status, err.strip()

    return run
