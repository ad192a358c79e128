"""When a run saves by the clock."""

from convmesh.training.save_timer import SaveTimer


def timer(minutes):
    """A timer, and the list whose last number is its time in seconds."""
    seconds = [0.0]
    return SaveTimer(minutes, clock=lambda: seconds[-1]), seconds


def test_due_once_after_so_many_minutes_since_the_last_save():
    saves, seconds = timer(1.5)
    due = []
    for now in (0, 89, 90, 91, 200):
        seconds.append(now)
        due.append(saves.is_due())
    assert due == [False, False, True, False, False]  # the save that was asked for is to come
    saves.restart()
    seconds.append(289)
    assert not saves.is_due()
    seconds.append(290)
    assert saves.is_due()


def test_never_without_minutes():
    saves, seconds = timer(0)
    seconds.append(1e9)
    assert not saves.is_due()
