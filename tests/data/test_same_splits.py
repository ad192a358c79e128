"""How splits that differ between processes are described, by three real processes."""

import json

import jobs

from convmesh.data import same_splits

# Each process has a split of its own: `here` of process 1, `there` of the others.
BODY = """
from convmesh.data.record import Source
from convmesh.data import same_splits
from convmesh.data.same_splits import check_same_splits

class Split(Source):
    task, split, category_ids = "classify", "val", None
    def __init__(self, names="abcdef", classes=("cat", "dog"), truths=None, **more):
        self.names, self.classes, self.truths = list(names), classes, truths or {}
        self.sizes = {}
        vars(self).update(more)
    def __len__(self):
        return len(self.names)
    def __getitem__(self, i):
        raise AssertionError("no image is read")
    def name(self, i):
        return self.names[i]
    def stated_truth(self, i):
        return self.truths.get(self.names[i], b"")
    def stated_size(self, i):
        return self.sizes.get(self.names[i], b"")

cases = [
    ({}, {}),
    ({"names": "abef"}, {}),
    ({"names": "abcdefxy"}, {}),
    ({"names": "abcdxy"}, {}),
    ({"names": "abcdfe"}, {}),
    ({"classes": ("cat", "cow")}, {}),
    ({"classes": ("dog", "cat")}, {}),
    ({"truths": {"c": b"1", "f": b"2"}}, {"truths": {"f": b"2"}}),
    ({"sizes": {"c": b"1", "f": b"2"}}, {"sizes": {"f": b"2"}}),
    ({"split": "test"}, {}),
    ({"category_ids": (3, 4)}, {"category_ids": (4, 3)}),
]
said = []
many = [({"names": "abcdefxy"}, {}), ({"names": "abcdxf"}, {}), ({"names": "abcd"}, {})]
same_splits._BLOCK = 2
for here, there in [*cases, *many]:
    same_splits.MOST_NAMES = 5 if (here, there) in many and len(said) >= len(cases) else 200_000
    try:
        own = Split(**(here if index == 1 else there))
        check_same_splits({"training": Split(), "evaluation": own})
        said.append("")
    except DataError as error:
        said.append(str(error).removesuffix("; give every process the same data"))
everyone = processes.gather(said)
assert all(one == said for one in everyone), everyone
if first:
    print(json.dumps(said))
"""


def test_what_differs_and_on_which_process(job):
    address = jobs.free_address()
    started = [job(BODY, *jobs.flags_for(i, address, 3)) for i in range(3)]
    (status, out, err), *_ = map(jobs.end, started)
    assert status == 0, err
    size = "split val: the sizes of image files differ from process 0's on process 1: c"
    assert err == f"warning: {size}\n"
    split = "split val: process 0 has 6 images, process 1 has"
    assert json.loads(out) == [
        "",
        f"{split} 4 and lacks c, d",
        f"{split} 8 and has also x, y",
        f"{split} 6 and lacks e, f and has also x, y",
        f"{split} 6 and has them in another order",
        "the classes of process 0 are cat, dog; process 1 has also cow and lacks dog",
        "the classes of process 0 are cat, dog; process 1 has them in another order",
        "split val: labels or boxes differ from process 0's on process 1: c",
        "",  # only reported
        "evaluation split: processes 0 and 2 have val, process 1 has test",
        "evaluation category ids: processes 0 and 2 have (4, 3), process 1 has (3, 4)",
        # As for many names: compared in pairs.
        f"{split} 8 and differs from example 6 on",
        f"{split} 6 and differs from example 4 on",
        f"{split} 4 and differs from example 4 on",
    ]


def test_of_a_large_split_a_sample_is_compared(monkeypatch):
    monkeypatch.setattr(same_splits, "SAMPLED", 5)
    assert same_splits._sample(range(4)) == [0, 1, 2, 3]
    assert same_splits._sample(range(101)) == [0, 25, 50, 75, 100]
