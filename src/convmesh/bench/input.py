"""`convmesh bench input`: images a second from files to augmented batches, beside the decoder's."""

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from convmesh.config import apply_overrides, to_json
from convmesh.data import open_train
from convmesh.data.loader import train_batches
from convmesh.errors import ConfigError, DataError

WARM_UP, SECONDS = 1.0, 3.0  # that each runs, and is then timed, in a round
ROUNDS = 3
PICTURES, HEIGHT, WIDTH = 256, 480, 640
NO_AUGMENTATION = "decode + one resize"


@dataclasses.dataclass(frozen=True)
class InputCost:
    """Images a second, the median over the rounds, by who makes them."""

    cores: int
    ceiling: float
    workers: dict[int, float]
    torch: dict[int, float]

    @property
    def ratio(self) -> float:
        """What the best worker count reaches of the ceiling."""
        return max(self.workers.values()) / self.ceiling

    @property
    def torch_ratio(self) -> float | None:
        """How many times as fast as torch's DataLoader, each at its best."""
        return max(self.workers.values()) / max(self.torch.values()) if self.torch else None


def make_pictures(folder: Path, count: int = PICTURES) -> None:
    """Writes `count` JPEG pictures of 640 x 480, quality 90, of two classes: DIR/train/CLASS/*.

    Noise at several scales, so that their files are about as large as photographs' are.
    """
    rng = np.random.default_rng(0)
    for i in range(count):
        picture = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for cells, weight in ((4, 90), (16, 50), (64, 30), (480, 8)):
            cell = rng.uniform(-weight, weight, (cells, cells * 4 // 3, 3)).astype(np.float32)
            picture += cv2.resize(cell, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        path = folder / "train" / "ab"[i % 2] / f"{i:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(picture + 128, 0, 255).astype(np.uint8)
        cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])


def measure_input(config, files: list[Path], worker_counts, compare: bool = False) -> InputCost:
    """Times the recipe's training input on `files`' data set, in turns with what bounds it."""
    cores = _cores()
    ceilings: list[float] = []
    ours: dict[int, list[float]] = {workers: [] for workers in worker_counts}
    theirs: dict[int, list[float]] = {workers: [] for workers in (1, cores)} if compare else {}
    for _ in range(ROUNDS):
        ceilings.append(_decoded(files, tuple(config.data.image_size), cores))
        for workers, speeds in ours.items():
            speeds.append(_loaded(config, workers))
        for workers, speeds in theirs.items():
            speeds.append(_torch_loaded(config, files, workers))
    return InputCost(
        cores=cores,
        ceiling=statistics.median(ceilings),
        workers={workers: statistics.median(speeds) for workers, speeds in ours.items()},
        torch={workers: statistics.median(speeds) for workers, speeds in theirs.items()},
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _decoded(files: list[Path], size: tuple[int, int], threads: int) -> float:
    cv2.setNumThreads(0)

    def work(path: Path) -> np.ndarray:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
        assert image is not None, path
        return cv2.resize(image, size[::-1])

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        before, done = time.perf_counter(), 0
        while time.perf_counter() - before < SECONDS:
            done += sum(1 for _ in pool.map(work, files))
        return done / (time.perf_counter() - before)


def _loaded(config, workers: int) -> float:
    config = apply_overrides(config, {"data.workers": workers, "data.cache": "false"})
    with train_batches(open_train(config), config) as batches:
        return images_per_second(len(batch["image"]) for batch in batches)


def images_per_second(counts) -> float:
    """The speed of an iterator over numbers of images, once it is warm."""
    counts = iter(counts)
    before = time.perf_counter()
    for _ in counts:
        if time.perf_counter() - before > WARM_UP:
            break
    before, done = time.perf_counter(), 0
    for count in counts:
        done += count
        if (seconds := time.perf_counter() - before) > SECONDS:
            return done / seconds
    raise DataError("bench input: the images came to an end")


def _torch_loaded(config, files: list[Path], workers: int) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "convmesh.bench.torch_input", str(workers)],
        input=json.dumps([to_json(config), [str(path) for path in files]]),
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise DataError("bench input --compare torch: its process failed; see above")
    return float(done.stdout)


def bench_input(config, as_json: bool = False, compare: str | None = None) -> InputCost:
    """Measures and prints the recipe's input; on pictures made for it if the recipe names no data.

    Raises ConfigError if `compare` names a rival that is not here, or the data is not a folder.
    """
    if compare and not all(map(importlib.util.find_spec, ("torch", "torchvision"))):
        raise ConfigError(
            "bench input --compare torch: PyTorch and torchvision are not installed; "
            "pip install 'convmesh[torch]'"
        )
    if config.data.name:
        raise ConfigError("bench input: for image files; leave data.name out, or set data.root")
    counts = sorted({0, 1, 2, _cores()})
    with contextlib.ExitStack() as stack:
        if not config.data.root:
            made = stack.enter_context(tempfile.TemporaryDirectory(prefix="convmesh-input-"))
            make_pictures(Path(made))
            config = apply_overrides(config, {"data.root": made})
        found = Path(config.data.root).expanduser().rglob("*.[jJ][pP]*[gG]")
        files = sorted(itertools.islice(found, 1000))
        if not files:
            raise DataError(f"{config.data.root}: no JPEG files to time the decoder on")
        cost = measure_input(config, files, counts, bool(compare))
    numbers = {"ratio": cost.ratio, "torch_ratio": cost.torch_ratio}
    print(json.dumps(dataclasses.asdict(cost) | numbers) if as_json else input_table(cost))
    return cost


def input_table(cost: InputCost) -> str:
    """What `measure_input` found, for people."""
    lines = [f"{f'on {cost.cores} cores':32}{'images/s':>10}{'of the ceiling':>17}"]
    rows = [(f"{NO_AUGMENTATION}: the ceiling", cost.ceiling)]
    for workers, speed in cost.workers.items():
        rows.append((f"data.workers={workers}" + (" (threads)" if not workers else ""), speed))
    rows += [
        (f"torch DataLoader, {workers} workers", speed) for workers, speed in cost.torch.items()
    ]
    lines += [f"{name:32}{speed:10.0f}{speed / cost.ceiling:17.2f}" for name, speed in rows]
    if cost.torch_ratio:
        lines.append(f"{cost.torch_ratio:.2f} times as fast as torch's, each at its best")
    return "\n".join(lines)
