"""Evaluation examples: the placement of images in the input, and their records."""

import numpy as np
from sources import Scenes, config_for

from convmesh.data.loading import loader


def test_an_evaluation_batch_maps_boxes_back_to_the_original_image():
    source = Scenes(4, shape=(40, 30))
    with loader.eval_batches(source, config_for(), 4) as found:
        (batch,) = found
    assert batch.scale.dtype == batch.offset.dtype == np.float32
    assert batch.original_size.tolist() == [[40, 30]] * 4
    assert batch.original_size.dtype == np.int32
    assert np.allclose(batch.scale, 32 / 40) and batch.offset.tolist() == [[12, 0]] * 4
    assert batch.labels[3, :3].tolist() == [2, 1, 0]
    back = (batch.boxes[3, :3] - np.tile(batch.offset[3], 2)) / batch.scale[3]
    assert np.allclose(back, source[3].boxes[::-1], atol=1e-4)


def test_records_have_the_labels_of_the_source_and_no_pixels():
    source = Scenes(4)
    with loader.eval_batches(source, config_for(max_boxes=1), 4) as found:
        (batch,) = found
    assert [record.image_id for record in batch.records] == [1, 2, 3, 4]
    record = batch.records[3]
    assert np.array_equal(record.boxes, source[3].boxes)
    assert np.array_equal(record.labels, source[3].labels)
    assert record.image.base is None and not record.image.size


def test_classification_crops_the_centre():
    source = Scenes(2, "classify", shape=(64, 200))
    with loader.eval_batches(source, config_for("classify"), 2) as found:
        (batch,) = found
    assert np.allclose(batch.scale, 0.5) and batch.offset.tolist() == [[-26, 0]] * 2
    assert batch.label.tolist() == [0, 1]
