"""Exit statuses, and the status and message of each exception that ends a command.

Only the standard library is imported here, so that `--help` is fast.
"""

from convmesh.distributed import console
from convmesh.errors import (
    HUNG,
    OUT_OF_MEMORY,
    PEER_LOST,
    ConfigError,
    ConvmeshError,
    Stopped,
    StoreError,
    first_line,
)

DONE = 0
FAILED = ConvmeshError.exit_code
WRONG_CALL = ConfigError.exit_code
NO_STORE = StoreError.exit_code
STOPPED = Stopped.exit_code
INTERRUPTED = 130

EXIT_STATUS_HELP = f"""\
exit status:
  {DONE}    done
  {FAILED}    the data or the run failed
  {WRONG_CALL}    the call or the config is wrong; nothing was written
  {NO_STORE}   an object store did not answer; run it again to resume
  {STOPPED}   stopped by a signal after saving; run it again to resume
  {PEER_LOST}   another process was lost: killed, stopped or unreachable; run it again to resume
  {HUNG}   hung, ended by the watchdog, with the stacks of all threads; run it again to resume
  {INTERRUPTED}, 143  ended without saving: interrupted, or by a second signal
"""


def exit_status(error: BaseException, debug: bool) -> tuple[str, int]:
    """The message and the exit status for an exception that ended a command.

    SystemExit whose code is a number has no message. debug: whether the traceback is shown anyway.
    """
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        return "", int(error.code or DONE)
    if isinstance(error, Stopped):
        return f"convmesh: {error}", STOPPED
    if isinstance(error, KeyboardInterrupt):
        return "convmesh: interrupted", INTERRUPTED
    status = error.exit_code if isinstance(error, ConvmeshError) else FAILED
    return f"convmesh: error: {console.shown(_message(error, debug))}", status


def _message(error: BaseException, debug: bool) -> str:
    if isinstance(error, ConvmeshError | SystemExit):
        return str(error)
    if isinstance(error, OSError):
        parts = (error.filename, error.strerror or error)
        return ": ".join(str(part) for part in parts if part)
    if OUT_OF_MEMORY in str(error):
        return (
            f"out of memory on the devices: {first_line(error)}\n"
            "  use a smaller train.batch_size, more train.accumulate, model.remat=true or "
            "mesh.fsdp=true; `convmesh plan` says what fits"
        )
    hint = "" if debug else " (run with --debug for the traceback)"
    text = first_line(error) if str(error).strip() else ""
    return f"{type(error).__name__}: {text}{hint}"
