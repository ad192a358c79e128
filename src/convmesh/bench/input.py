"""`convmesh bench input`: images/s of the training input, compared with decoding alone."""

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
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from ml_collections import ConfigDict

from convmesh.config import apply_overrides, to_json
from convmesh.data.augmentation.sizes import input_sizes
from convmesh.data.loading.loader import train_batches
from convmesh.data.splits import open_train
from convmesh.distributed.cores import usable_cores
from convmesh.errors import ConfigError, DataError

WARM_UP, SECONDS = 1.0, 3.0  # seconds of warm-up and of timing, in each round
ROUNDS = 3
PICTURES, HEIGHT, WIDTH = 256, 480, 640
NO_AUGMENTATION = "decode + one resize"
# Augmentation that `torch_input` has none of.
NOT_IN_TORCH = ("rotate", "shear", "vertical_flip", "quarter_turn", "policy", "erase")


@dataclasses.dataclass(frozen=True)
class InputCost:
    """Images per second, the median over the rounds."""

    cores: int
    ceiling: float  # decoding and one resize, on all cores
    workers: dict[int, float]  # ours, by data.workers
    torch: dict[int, float]  # torch's DataLoader, by number of workers

    @property
    def ratio(self) -> float:
        """The speed with the best number of workers, relative to the ceiling."""
        return max(self.workers.values()) / self.ceiling

    @property
    def torch_ratio(self) -> float | None:
        """Our speed relative to torch's DataLoader, each with its best number of workers."""
        return max(self.workers.values()) / max(self.torch.values()) if self.torch else None


def make_pictures(folder: Path, count: int = PICTURES) -> None:
    """Writes `count` JPEG pictures of 640 x 480, quality 90, of two classes: DIR/train/CLASS/*.

    Noise at several scales, so that the files are about as large as those of photographs.
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


def measure_input(
    config: ConfigDict, files: list[Path], worker_counts: Iterable[int], compare: bool = False
) -> InputCost:
    """Times the recipe's training input, alternating with decoding `files`, its images.

    With `compare` also alternating with torch's DataLoader. Raises DataError if that fails.
    """
    cores = usable_cores()
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


def _decoded(files: list[Path], size: tuple[int, int], threads: int) -> float:
    """Images per second of only decoding and resizing to (height, width)."""
    cv2.setNumThreads(0)

    def decode(path: Path) -> np.ndarray:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
        assert image is not None, path
        return cv2.resize(image, size[::-1])

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        before, done = time.perf_counter(), 0
        while time.perf_counter() - before < SECONDS:
            done += sum(1 for _ in pool.map(decode, files))
        return done / (time.perf_counter() - before)


def _loaded(config: ConfigDict, workers: int) -> float:
    """Images per second of our loader."""
    config = apply_overrides(config, {"data.workers": workers, "data.cache": "false"})
    with train_batches(open_train(config), config) as batches:
        return images_per_second(len(batch.image) for batch in batches)


def images_per_second(counts: Iterable[int]) -> float:
    """The speed of an endless iterator over numbers of images, after a warm-up."""
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
    raise DataError("bench input: the loader ended before it was timed")


def _torch_loaded(config: ConfigDict, files: list[Path], workers: int) -> float:
    """Images per second of torch's DataLoader, in a separate process."""
    done = subprocess.run(
        [sys.executable, "-m", "convmesh.bench.torch_input", str(workers)],
        input=json.dumps([to_json(config), [str(path) for path in files]]),
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise DataError("bench input --compare torch: its process failed; see above")
    return float(done.stdout)


def bench_input(config: ConfigDict, as_json: bool = False, compare: str | None = None) -> InputCost:
    """Measures and prints the recipe's input; on generated images if the recipe names no data.

    Raises ConfigError if PyTorch is needed but not installed or would do less than the recipe, or
    if the data is a TFDS set; DataError if the folder has no JPEG files.
    """
    if compare:
        _check_torch_does_the_same(config)
    if compare and not all(map(importlib.util.find_spec, ("torch", "torchvision"))):
        raise ConfigError(
            "bench input --compare torch: PyTorch and torchvision are not installed; "
            "pip install 'convmesh[torch]'"
        )
    if config.data.name:
        raise ConfigError(
            "bench input: reads image files, not TFDS sets; leave data.name out, or set data.root"
        )
    counts = sorted({0, 1, 2, usable_cores()})
    with contextlib.ExitStack() as stack:
        if not config.data.root:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="convmesh-input-"))
            make_pictures(Path(folder))
            config = apply_overrides(config, {"data.root": folder})
        found = Path(os.path.expanduser(config.data.root)).rglob("*.[jJ][pP]*[gG]")
        files = sorted(itertools.islice(found, 1000))
        if not files:
            raise DataError(f"{config.data.root}: no JPEG files to time the decoder on")
        cost = measure_input(config, files, counts, bool(compare))
    numbers = {"ratio": cost.ratio, "torch_ratio": cost.torch_ratio}
    print(json.dumps(dataclasses.asdict(cost) | numbers) if as_json else input_table(cost))
    return cost


def _check_torch_does_the_same(config: ConfigDict) -> None:
    """Raises ConfigError for a recipe that asks for more work than `torch_input` does."""
    refused = "bench input --compare torch:"
    if config.task != "classify":
        raise ConfigError(f"{refused} only recipes of classifiers, not task={config.task}")
    if input_sizes(config) != (tuple(config.data.image_size),):
        raise ConfigError(f"{refused} data.sizes is not supported; set it to nothing")
    for name in NOT_IN_TORCH:
        if value := config.data.augment[name]:
            none = "nothing" if isinstance(value, str) else "0"
            raise ConfigError(
                f"{refused} data.augment.{name}={value} is not supported; set it to {none}"
            )


def input_table(cost: InputCost) -> str:
    """The cost as a table of text."""
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
