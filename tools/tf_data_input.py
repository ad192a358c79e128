"""Images per second of tf.data from JPEG files to augmented batches, as in JAX's ImageNet examples.

    python tools/tf_data_input.py DIR --size 224 --batch 32 --cores 2

DIR holds train/CLASS/*.jpg. The map is that of the usual ImageNet input in JAX: a box of 35 to 100%
of the area is drawn, decoded alone (`decode_and_crop_jpeg`), resized, mirrored, and changed in
brightness, contrast, saturation and hue (`--plain`: not changed). To compare with
`convmesh bench input`. Needs tensorflow.
"""

import argparse
import time
from pathlib import Path

import tensorflow as tf

WARM_UP, SECONDS, ROUNDS = 1.0, 3.0, 3


def example(path: tf.Tensor, size: int, plain: bool) -> tf.Tensor:
    """The augmented image of a file, uint8 [size, size, 3]."""
    data = tf.io.read_file(path)
    start, length, _ = tf.image.sample_distorted_bounding_box(
        tf.io.extract_jpeg_shape(data),
        tf.zeros([0, 0, 4]),
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.35, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    box = tf.stack([start[0], start[1], length[0], length[1]])
    image = tf.image.decode_and_crop_jpeg(data, box, channels=3)
    image = tf.image.random_flip_left_right(tf.image.resize(image, [size, size]))
    if not plain:
        image = tf.image.random_brightness(image / 255, 0.16)
        image = tf.image.random_contrast(image, 0.84, 1.16)
        image = tf.image.random_saturation(image, 0.72, 1.28)
        image = tf.image.random_hue(image, 0.02) * 255
    return tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8)


def main() -> None:
    """Prints images per second of each round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--plain", action="store_true")
    args = parser.parse_args()
    files = sorted(str(path) for path in (args.root / "train").rglob("*.jpg"))
    options = tf.data.Options()
    options.threading.private_threadpool_size = args.cores
    batches = (
        tf.data.Dataset.from_tensor_slices(files)
        .shuffle(len(files))
        .repeat()
        .map(lambda path: example(path, args.size, args.plain), num_parallel_calls=args.cores)
        .batch(args.batch)
        .prefetch(2)
        .with_options(options)
    )
    for _ in range(ROUNDS):
        found = batches.as_numpy_iterator()
        before, done = time.perf_counter(), 0
        while time.perf_counter() - before < WARM_UP:
            next(found)
        before = time.perf_counter()
        while (seconds := time.perf_counter() - before) < SECONDS:
            done += len(next(found))
        print(f"{done / seconds:.0f} images/s", flush=True)


if __name__ == "__main__":
    main()
