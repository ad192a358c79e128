"""What was left out of the training data is counted at the end."""

from fake_run import fake_run

from convmesh.data.loading.batches import DataCounts
from convmesh.training.data_report import DataReport


def test_a_line_for_each_count_above_0(tmp_path):
    counts = DataCounts(images=90, unreadable=1, bad_boxes=2, truncated=3, bad_partners=4, boxes=50)
    run = fake_run(tmp_path, counts=counts)
    DataReport().on_end(run)
    assert run.logged == [
        "1 images could not be read and were skipped (data.on_bad_example)",
        "2 bad boxes were dropped or clipped (data.on_bad_box)",
        "4 images chosen for mosaic or mixup could not be read and were left out",
        "3 boxes did not fit in data.max_boxes and were left out",
    ]
    run = fake_run(tmp_path, counts=DataCounts(images=90, boxes=50))
    DataReport().on_end(run)
    assert run.logged == []
