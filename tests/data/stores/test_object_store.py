"""Objects of real servers on loopback, as files are written and read."""

import errno
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

from convmesh.data.stores import object_store
from convmesh.data.stores.object_store import ObjectStore, explained, is_url
from convmesh.errors import ConfigError


def test_what_is_written_is_listed_and_read(address):
    store = ObjectStore(address)
    assert store.entries() == {}
    store.write("config.json", b"{}")
    store.write("eval/val/metrics.json", b"")
    ObjectStore(f"{address}-2").write("other", b"1")
    found = store.entries()
    assert {name: entry.size for name, entry in found.items()} == {
        "config.json": 2,
        "eval/val/metrics.json": 0,
    }
    assert list(store.entries("eval")) == ["eval/val/metrics.json"]
    assert store.read("config.json") == b"{}"


def test_the_version_changes_with_the_content(address):
    store = ObjectStore(address)
    store.write("name", b"1")
    before = store.entries()["name"]
    assert store.entries()["name"] == before
    store.write("name", b"2")
    assert store.entries()["name"] != before


def test_of_several_that_create_an_object_one_succeeds(address):
    store = ObjectStore(address)
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda i: store.create("lock", b"%d" % i), range(8)))
    assert created.count(True) == 1
    assert store.read("lock") == b"%d" % created.index(True)


def test_files_come_back_as_they_were(address, tmp_path):
    store, here, there = ObjectStore(address), tmp_path / "here", tmp_path / "there"
    contents = {"small": b"1", "folder/empty": b"", "folder/large": bytes(range(256)) * 50_000}
    for name, content in contents.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content)
    store.upload(here, [*contents, "gone"])
    store.download([*contents, "gone"], there)
    found = {path.relative_to(there).as_posix(): path for path in there.rglob("*")}
    assert {name for name, path in found.items() if path.is_file()} == contents.keys()
    assert all(found[name].read_bytes() == content for name, content in contents.items())


def test_deleting_what_is_not_there_is_no_error(address):
    store = ObjectStore(address)
    for name in ("a", "b", "c"):
        store.write(name, b"1")
    store.delete(["a", "b", "none"])
    assert list(store.entries()) == ["c"]


def test_a_missing_object_is_a_missing_file(address):
    with pytest.raises(FileNotFoundError) as error:
        ObjectStore(address).read("none")
    assert error.value.filename == f"{address}/none"


@pytest.mark.parametrize(
    "ask",
    [
        lambda store, folder: store.entries(),
        lambda store, folder: store.write("name", b""),
        lambda store, folder: store.create("name", b""),
        lambda store, folder: store.upload(folder, ["file"]),
    ],
)
def test_a_missing_bucket_is_an_error(address, tmp_path, ask):
    (tmp_path / "file").write_bytes(b"1")
    store = ObjectStore(f"{address.partition(':')[0]}://no-such-bucket/run")
    with pytest.raises(OSError) as error:
        ask(store, tmp_path)
    assert error.value.filename.startswith("/".join(store.url.split("/")[:3]))


def test_any_error_of_a_library_names_the_address(address, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no credentials\nand more")

    store = ObjectStore(address)
    monkeypatch.setattr(store._fs, "cat_file", fail)
    with pytest.raises(OSError) as error:
        store.read("name")
    assert (error.value.strerror, error.value.filename) == ("no credentials", f"{address}/name")


class NoCredentialsError(Exception):
    """As botocore's."""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TimeoutError("timed out"), 74),
        (ConnectionResetError(errno.ECONNRESET, "reset"), 74),
        (RuntimeError("503, slow down"), 74),
        (NoCredentialsError("Unable to locate credentials"), 2),
        (OSError("Forbidden: https://storage"), 2),
        (OSError(errno.EINVAL, "Invalid bucket name"), 2),
        (OSError(errno.ENOSPC, "No space left on device"), 2),
    ],
)
def test_what_says_that_a_store_did_not_answer(address, monkeypatch, error, status):
    def fail(*args, **options):
        raise error

    store = ObjectStore(address)
    monkeypatch.setattr(store._fs, "cat_file", fail)
    with pytest.raises(OSError) as found:
        store.read("name")
    assert explained("what", found.value, ConfigError).exit_code == status
    assert object_store.is_unanswered(found.value) == (status == 74)


@pytest.mark.parametrize(
    "url", ["http://host/run", "file:///run", "s3://", "gs:///run", "s3://b/../x"]
)
def test_other_addresses_are_refused(url):
    with pytest.raises(ConfigError, match=url.partition(":")[0]):
        ObjectStore(url)


def test_a_missing_package_is_named(monkeypatch):
    def lacks(*args, **options):
        raise ImportError

    monkeypatch.setattr(fsspec, "filesystem", lacks)
    monkeypatch.setattr(object_store, "_file_system", object_store._file_system.__wrapped__)
    with pytest.raises(ConfigError, match=r"gs:// needs the package gcsfs: pip install gcsfs"):
        ObjectStore("gs://bucket/run")


def test_what_is_an_address():
    assert is_url("s3://bucket") and is_url("http://host")
    assert not is_url("folder/s3") and not is_url("C:\\run")
