"""Downloads from a server on loopback: whole, resumed, damaged, refused."""

import hashlib
import http.server
import threading

import pytest

from convmesh.errors import RunError
from convmesh.weights import download

DATA = bytes(range(256)) * 40
DIGITS = hashlib.sha256(DATA).hexdigest()[:8]


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves DATA; `plan` says for each request where it stops, or an HTTP status."""

    plan, asked, ranges = [], [], True

    def do_GET(self):  # noqa: N802, the library's name
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        step = self.plan.pop(0) if self.plan else len(DATA)
        start = int(wanted[6:-1]) if wanted and self.ranges else 0
        if step in (404, 503):
            self.send_error(step)
            return
        if start >= len(DATA):
            self.send_error(416)
            return
        self.send_response(206 if wanted and self.ranges else 200)
        self.send_header("Content-Length", str(len(DATA) - start))
        self.end_headers()
        self.wfile.write(DATA[start:step])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    for name, value in (("plan", []), ("asked", []), ("ranges", True)):
        monkeypatch.setattr(Handler, name, value)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}/a.pth"
        found.shutdown()


def fetch(url, path, digits=DIGITS):
    download.fetch(url, path, digits, print)
    assert path.read_bytes() == DATA
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_new_file_in_a_new_folder(server, tmp_path):
    fetch(server, tmp_path / "new" / "a.pth")
    assert Handler.asked == [None]


def test_a_connection_that_ends_early_is_gone_on_with(server, tmp_path):
    Handler.plan += [1000, 503, 5000]
    fetch(server, tmp_path / "a.pth")
    assert Handler.asked == [None, "bytes=1000-", "bytes=1000-", "bytes=5000-"]


def test_so_is_what_an_earlier_call_has_kept(server, tmp_path):
    Handler.plan += [100, 200, 300, 400]
    with pytest.raises(RunError, match="a.pth: cannot be downloaded: the connection ended early"):
        fetch(server, tmp_path / "a.pth")
    assert (tmp_path / "a.pth.part").read_bytes() == DATA[:400]
    fetch(server, tmp_path / "a.pth")
    assert Handler.asked[-1] == "bytes=400-"
    (tmp_path / "a.pth").rename(tmp_path / "a.pth.part")  # all of it
    fetch(server, tmp_path / "a.pth")


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    Handler.plan += [1000]
    Handler.ranges = False
    fetch(server, tmp_path / "a.pth")


def test_another_file_is_deleted(server, tmp_path):
    (tmp_path / "a.pth.part").write_bytes(b"x" * 500)
    with pytest.raises(RunError, match=f"damaged: its SHA-256 is .*, not {DIGITS}.*deleted, try"):
        fetch(server, tmp_path / "a.pth")
    assert list(tmp_path.iterdir()) == []
    fetch(server, tmp_path / "a.pth")


def test_what_will_not_pass_is_tried_once(server, tmp_path):
    Handler.plan += [404]
    with pytest.raises(RunError, match="HTTP 404 Not Found; or fetch it by other means and put"):
        fetch(server, tmp_path / "a.pth")
    assert len(Handler.asked) == 1 and list(tmp_path.iterdir()) == []


def test_without_a_network_or_a_folder_to_write(server, tmp_path, monkeypatch):
    with pytest.raises(RunError, match="http://127.0.0.1:9/a.pth: cannot be .*Connection refused"):
        fetch("http://127.0.0.1:9/a.pth", tmp_path / "a.pth")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be downloaded: (Not a directory|File exists)"):
        fetch(server, tmp_path / "file" / "a.pth")
