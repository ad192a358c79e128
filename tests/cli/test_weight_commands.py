"""import-weights and export-weights: what they pass on."""

import pytest

from convmesh.cli.command_line import main
from convmesh.inference.weight_import import ImportOptions


def test_import_passes_its_flags_and_the_overrides(calls):
    command = ["import-weights", "--model", "resnet18", "net.pth", "--output", "out"]
    assert main(command) == 0
    assert calls.made.pop() == (
        "import_weights",
        ("net.pth", "resnet18", "out", ImportOptions(), ()),
        {},
    )
    resize = "--config.data.eval_resize=256"
    assert main([*command, "--partial", "--classes", "names.txt", resize]) == 0
    [(_, (*_, options, overrides), _)] = calls.made
    assert (options, overrides) == (ImportOptions("names.txt", partial=True), (resize,))


def test_a_wrong_key_is_refused_before_anything_is_read(calls, failed):
    command = ["import-weights", "--model", "m", "net.pth", "--output", "o"]
    status, line = failed(*command, "--config.data.eval_resise=3")
    assert status == 2 and "did you mean data.eval_resize" in line and not calls.made


@pytest.mark.parametrize("left_out", [("--model", "m"), ("net.pth",), ("--output", "o")])
def test_import_needs_model_file_and_output(calls, failed, left_out):
    words = ["import-weights", "--model", "m", "net.pth", "--output", "o"]
    status, line = failed(*(word for word in words if word not in left_out))
    assert status == 2 and "required" in line and not calls.made


def test_export_passes_its_flags(calls, failed):
    command = ["export-weights", "--workdir", "w", "--output", "f.safetensors"]
    assert main(command) == 0 and main([*command, "--step", "3"]) == 0
    assert main([*command, "--best"]) == 0
    name, files = "export_weights", ("w", "f.safetensors")
    assert calls.made == [
        (name, (*files, step, best), {}) for step, best in ((None, False), (3, False), (None, True))
    ]
    status, line = failed(*command, "--best", "--step", "3")
    assert status == 2 and "not allowed with" in line
