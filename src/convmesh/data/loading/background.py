"""Threads and worker processes that prepare batches in the background."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
from multiprocessing import resource_tracker

import cv2
import grain
from absl import flags

from convmesh.distributed import stop_signals
from convmesh.distributed.cores import usable_cores

THREADS = min(8, usable_cores())
LOW_PRIORITY = 10  # a Unix niceness, from -20 (first) to 19
_this_thread = threading.local()


def iterate_in_background(batches: grain.MapDataset, workers: int) -> grain.IterDataset:
    """Return `batches`, prefetched in threads, or in `workers` processes if that is above 0."""
    # One thread prepares one example; OpenCV's own threads would compete with these.
    cv2.setNumThreads(0)
    if workers == 0:
        # Decoding and resizing release the GIL.
        return batches.to_iter_dataset(
            grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=THREADS)
        )
    # Grain passes the absl flags on to its workers, and fails if they have not been parsed.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    _start_quiet_tracker()
    worker_options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    return batches.to_iter_dataset(worker_options).mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
        worker_init_fn=_start_worker,
    )


def kill_workers() -> None:
    """Kill the workers that still run: Grain forgets those beside one that could not be started."""
    for child in multiprocessing.active_children():
        if child.name.startswith("grain-process-prefetch"):
            child.kill()
            child.join()


def forget_unstarted_workers() -> None:
    """Let Grain's iterators forget a worker that could not be started.

    They would wait for its end when they are closed, which is an error.
    """
    for iterator in gc.get_objects():
        if type(iterator).__name__ == "ProcessPrefetchDatasetIterator":
            process = getattr(iterator, "_prefetch_process", None)
            if process is not None and process.pid is None:
                iterator._prefetch_process = None


def _start_quiet_tracker() -> None:
    """Start the process that removes shared memory left by a killed worker, without its warning."""
    quiet = "ignore:resource_tracker:UserWarning"
    sys.warnoptions.append(quiet)  # it inherits them
    try:
        with stop_signals.blocked_for_helpers():
            resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(quiet)


def lower_thread_priority() -> None:
    """Lower the priority of this thread, unless it is the main thread; once per thread.

    Devices simulated on the CPU wait for each other many times in a step, so delaying one delays
    all, while the gaps are long enough to prepare the next batch. Only Linux has priorities of
    threads.
    """
    if not hasattr(_this_thread, "lowered"):
        _this_thread.lowered = True
        if sys.platform == "linux" and threading.current_thread() is not threading.main_thread():
            thread = threading.get_native_id()
            lower = max(LOW_PRIORITY, os.getpriority(os.PRIO_PROCESS, thread))
            os.setpriority(os.PRIO_PROCESS, thread, lower)


def _start_worker(index: int, count: int) -> None:
    cv2.setNumThreads(0)
    # A terminal signals all processes, but the run may still need the batches of this worker.
    stop_signals.ignore_in_helper()
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this worker when its parent process has ended, even if that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
