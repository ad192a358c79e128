"""The `convmesh` command.

Only the standard library is imported here, so that `--help` is fast; a command imports what it
needs when it runs, after its config was checked.
"""

import contextlib
import functools
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from convmesh.cli.exit_status import DONE, STOPPED, exit_status
from convmesh.cli.parser import Call, parse
from convmesh.data.loading.worker_errors import end_if_worker_is_starting
from convmesh.distributed import console
from convmesh.errors import HUNG, PEER_LOST

# Flags whose values the processes of a job may set differently; configs are compared when resolved.
_MAY_DIFFER = (
    *("--workdir", "--config", "--output", "--paths"),
    *("--command", "--coordinator", "--process-id", "--start-timeout", "--cpu-devices"),
    "--debug",
)

# Flags that all must give, or none, with a value of their own.
_FILES = ("--example-log",)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (the process's own by default); returns the exit status."""
    end_if_worker_is_starting()
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    try:
        return _run(parse(argv), argv)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        message, status = exit_status(error, debug)
        _await_verdict(error)
        return _end(message, status, debug) if message else status


def _run(call: Call, argv: list[str]) -> int:
    args = call.args
    if args.cpu_devices is not None:
        from convmesh.distributed.devices import simulate_devices

        simulate_devices(args.cpu_devices)
    job = args.coordinator, args.num_processes, args.process_id
    if (args.num_processes or 1) > 1 and job.count(None) == 2:
        return _run_locally(call, argv)
    with contextlib.ExitStack() as stack:
        joining: AbstractContextManager[None] = contextlib.nullcontext()
        if call.command.resumes:
            from convmesh.training.signals import listening

            joining = stack.enter_context(listening(ends_process=True)).joining()
        from convmesh.distributed import failure, launch, same_run, watchdog

        watchdog.set_bounds(args.lost_after, args.hung_after)
        with joining:
            launch.start(*job, args.start_timeout)
        if call.command.resumes and not failure.watched():
            watchdog.start()
            stack.callback(watchdog.stop)
        same_run.check_same_program(_stated(call))
        status = call.command.load()(args, call.overrides)
    failure.finish()
    watchdog.stop()
    return status or DONE


def _run_locally(call: Call, argv: list[str]) -> int:
    """Starts local processes; with --elastic again, fewer of them, while one is lost or hangs.

    Fewer: so many that divide those before, as the batch then divides over their devices too.
    """
    from convmesh.distributed.launch import run_locally

    command, count = _command_of_process(argv), call.args.num_processes
    elastic, received = getattr(call.args, "elastic", False), list[int]()
    more = list[str]()  # arguments, of those that are started again
    while True:
        given = functools.partial(command, more)
        status = run_locally(given, count, call.command.resumes, received)
        if not elastic or status not in (PEER_LOST, HUNG) or count == 1 or received:
            return status
        before, count = count, max(n for n in range(1, count) if count % n == 0)
        more = [f"--num-processes={count}"]
        console.print_line(f"convmesh: --elastic: resuming with {count} of {before} processes")


def _await_verdict(error: BaseException) -> None:
    """Lets the watchdog end this process if `error` comes from the loss of another process."""
    from convmesh.distributed import failure, watchdog

    if failure.watched():
        watchdog.await_verdict(error)


def _stated(call: Call) -> dict[str, str]:
    """The command and its flags, without those that name files or describe this process."""
    flags = {f"--{name.replace('_', '-')}": str(value) for name, value in vars(call.args).items()}
    flags |= {name: "given" for name in _FILES if flags.get(name, "None") != "None"}
    return {"command": call.command.name} | {
        name: value for name, value in flags.items() if name not in _MAY_DIFFER
    }


def _end(message: str, status: int, debug: bool) -> int:
    """Prints the message of an error; with several processes, ends all of them."""
    if debug:
        traceback.print_exc()
    from convmesh.distributed import failure, watchdog

    if not failure.watched():
        console.print_line(message)
    elif status != STOPPED:
        failure.fail(message, status)
    else:  # all processes stop at the same step; a launcher may end them all when the first ends
        console.print_status(message)
        failure.finish()
        watchdog.stop()
    return status


def _command_of_process(argv: list[str]) -> Callable[[Sequence[str], int, str], list[str]]:
    """This command line, with more arguments, as a process that `run_locally` starts."""
    own = sys.orig_argv[: len(sys.orig_argv) - len(argv)]
    if not argv or sys.orig_argv[len(own) :] != argv:  # `main` was called with other arguments
        own = [sys.executable, "-m", "convmesh"]

    def command(more: Sequence[str], process_id: int, coordinator: str) -> list[str]:
        job = [f"--coordinator={coordinator}", f"--process-id={process_id}"]
        return [sys.executable, *own[1:], *job, *argv, *more]

    return command
