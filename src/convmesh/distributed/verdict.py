"""Which process was lost or hangs, judged by what all have published about themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from convmesh.distributed.own_progress import Position
from convmesh.errors import HUNG, PEER_LOST


@dataclass(frozen=True)
class Verdict:
    """Why all processes end.

    Attributes:
      status: their exit status.
      message: names the processes that are to blame.
      processes: their numbers.
    """

    status: int
    message: str
    processes: tuple[int, ...]


def lost(
    silent: Sequence[int], seconds: float, step: int, named: Callable[[Sequence[int]], str]
) -> Verdict:
    """The verdict on processes of which nothing was heard for `seconds`, after `step`."""
    were = "was" if len(silent) == 1 else "were"
    after = f" after step {step}" if step else ""
    return Verdict(
        PEER_LOST,
        f"{named(silent)} {were} lost{after}: no sign of life for {seconds:.0f} s; run it again to "
        "resume",
        tuple(silent),
    )


def hung(
    main: Mapping[int, Position],
    saving: Mapping[int, Position],
    named: Callable[[Sequence[int]], str],
) -> Verdict | None:
    """The verdict on processes that make no progress; None while one of all may still make some.

    main, saving: the positions of the two threads of work of each process, by its number. Threads
    that save hang if each that is not idle is overdue. The main threads hang if those that the
    others wait for, with the fewest arrivals, are overdue: what the others do meanwhile, such as a
    hook that waits for the step, may have a longer bound. But all may be waiting for a thread that
    saves.
    """
    at_work = {i: position for i, position in saving.items() if position.bound is not None}
    if at_work:
        late = all(position.overdue for position in at_work.values())
        return _hung(at_work, len(main), named) if late else None
    behind = _behind(main)
    return _hung(main, len(main), named) if all(main[i].overdue for i in behind) else None


def was_overdue(
    main: Position, saving: Position, arrivals: int, named: Callable[[Sequence[int]], str]
) -> Verdict | None:
    """The verdict on process 0, silent now and overdue when it was last heard; None if it was not.

    Process 0 judges who hangs, and ends: its verdict was not read. Unless it saves, it may have
    waited for another: it has if its arrivals are more than the own `arrivals`, or as many.
    """
    at_work = saving if saving.bound is not None else main
    if not at_work.overdue:
        return None
    if at_work is saving or main.arrivals < arrivals:
        return _hung({0: at_work}, 2, named)
    return Verdict(
        HUNG,
        f"{named([0])} ended while {at_work.what} (step {at_work.step}) had taken "
        f"{at_work.seconds:.0f} s: it, or one that it waited for, hung; run it again to resume",
        (0,),
    )


def _behind(positions: Mapping[int, Position]) -> list[int]:
    """The processes that the others wait for; all if none is behind."""
    fewest = min(position.arrivals for position in positions.values())
    return [i for i, position in positions.items() if position.arrivals == fewest]


def _hung(
    positions: Mapping[int, Position], count: int, named: Callable[[Sequence[int]], str]
) -> Verdict:
    behind = _behind(positions)
    where = positions[behind[0]]
    if count == 1:
        who = "the process"
    elif len(behind) == count:
        who = f"all {count} processes"
    else:
        who = named(behind)
    before = f", the longest before {where.longest:.1f} s" if where.longest else ""
    return Verdict(
        HUNG,
        f"{who} hung: {where.what} (step {where.step}) has taken {where.seconds:.0f} s{before}; "
        "run it again to resume",
        tuple(behind),
    )
