"""Which files the checksums of a checkpoint name."""

from convmesh.workdir import checksums


def test_hidden_files_of_other_programs_are_not_named_and_may_go(tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("model/data", "model/.nfs0001", ".DS_Store"):
        (tmp_path / name).write_text(name)
    checksums.write_checksums(tmp_path)
    assert checksums.added_files(tmp_path) == [".DS_Store", "model/.nfs0001"]
    (tmp_path / "model/.nfs0001").unlink()
    assert checksums.verify_checksums(tmp_path) == ""
    # Earlier versions named hidden files.
    with open(tmp_path / checksums.CHECKSUMS) as file:
        count, *named = file.read().splitlines(keepends=True)
    text = "".join([f"{'0' * 64}  model/.nfs0001\n", *named])
    (tmp_path / checksums.CHECKSUMS).write_text(text)
    assert checksums.verify_checksums(tmp_path) == ""
    (tmp_path / "model/data").unlink()
    assert checksums.verify_checksums(tmp_path) == "model/data: missing"
