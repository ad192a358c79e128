"""The message and exit status of each exception that ends a command."""

import pytest

from convmesh.cli.exit_status import exit_status
from convmesh.errors import ConfigError, DataError, RunError, Stopped


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ConfigError("train.seed changed"), 2, "convmesh: error: train.seed changed"),
        (DataError("a.jpg: cut short"), 1, "convmesh: error: a.jpg: cut short"),
        (RunError("the loss is not finite"), 1, "convmesh: error: the loss is not finite"),
        (Stopped("stopped at step 7"), 75, "convmesh: stopped at step 7"),
        (SystemExit("gave up"), 1, "convmesh: error: gave up"),
        (SystemExit(), 0, ""),
        (SystemExit(3), 3, ""),
        (KeyboardInterrupt(), 130, "convmesh: interrupted"),
        (OSError(28, "No space left", "a.bin"), 1, "convmesh: error: a.bin: No space left"),
        (OSError("no disk"), 1, "convmesh: error: no disk"),
        (
            RuntimeError("out of memory\nat length"),
            1,
            "convmesh: error: RuntimeError: out of memory (run with --debug for the traceback)",
        ),
        (
            ValueError("\n  no mesh of 8\ndevices"),
            1,
            "convmesh: error: ValueError: no mesh of 8 (run with --debug for the traceback)",
        ),
        (KeyError(), 1, "convmesh: error: KeyError:  (run with --debug for the traceback)"),
    ],
)
def test_the_message_and_status_of_an_error(error, status, message):
    assert exit_status(error, debug=False) == (message, status)


def test_with_debug_there_is_no_hint_to_it():
    assert exit_status(RuntimeError("x"), debug=True) == ("convmesh: error: RuntimeError: x", 1)


def test_out_of_memory_names_the_ways_out():
    error = RuntimeError("RESOURCE_EXHAUSTED: 20G of 16G\nat length")
    message, status = exit_status(error, debug=False)
    first, second = message.splitlines()
    assert status == 1
    assert first == (
        "convmesh: error: out of memory on the devices: RESOURCE_EXHAUSTED: 20G of 16G"
    )
    assert all(key in second for key in ("train.batch_size", "mesh.fsdp=true", "convmesh plan"))
