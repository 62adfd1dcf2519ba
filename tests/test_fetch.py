"""Downloads against a server on this machine that breaks off, lies, and resumes."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bye.data import fetch as fetching
from bye.data.fetch import fetch, fetch_dataset, sources, unpack
from bye.errors import ByeError

CONTENT = bytes(range(256)) * 5000


class Server(ThreadingHTTPServer):
    """Serves `files`; breaks off after `breaks` bytes for as many transfers as the list has numbers."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.breaks, self.ranges, self.asked = {}, [], True, []

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content = self.server.files.get(self.path.lstrip("/"))
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if content is None:
            return self.send_error(404)
        start = int(asked[len("bytes=") : -1]) if asked and self.server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = start + self.server.breaks.pop(0) if self.server.breaks else len(content)
        self.wfile.write(content[start:stop])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetching.time, "sleep", lambda seconds: None)
    server = Server()
    server.files["a.bin"] = CONTENT
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_is_fetched_once(server, tmp_path):
    digest = hashlib.sha256(CONTENT).hexdigest()
    for _ in range(2):
        fetch(server.url("a.bin"), tmp_path / "a.bin", size=len(CONTENT), sha256=digest.upper())
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and len(server.asked) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_broken_transfer_goes_on_where_it_was(server, tmp_path):
    server.breaks = [1000, 5000]
    fetch(server.url("a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=6000-"]


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.breaks, server.ranges = [1000], False
    fetch(server.url("a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_what_came_is_kept_for_the_next_call(server, tmp_path):
    server.breaks = [100] * fetching.ATTEMPTS
    with pytest.raises(ByeError, match="cannot be fetched .*the same command goes on from there"):
        fetch(server.url("a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin.part").stat().st_size == 100 * fetching.ATTEMPTS
    fetch(server.url("a.bin"), tmp_path / "a.bin")
    assert server.asked[-1] == f"bytes={100 * fetching.ATTEMPTS}-"
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_whole_part_needs_nothing_more(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    fetch(server.url("a.bin"), tmp_path / "a.bin", sha256=hashlib.sha256(CONTENT).hexdigest())
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("a.bin", {"sha256": "0" * 64}, "is not the published file"),
        ("a.bin", {"size": 7}, "gave 1280000 bytes, not 7"),
        ("b.bin", {}, "answers 404"),
    ],
)
def test_what_is_not_the_file_is_refused(server, tmp_path, name, options, told):
    with pytest.raises(ByeError, match=told) as caught:
        fetch(server.url(name), tmp_path / name, **options)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_nobody_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching.time, "sleep", lambda seconds: None)
    with pytest.raises(ByeError, match="cannot be fetched"):
        fetch("http://127.0.0.1:9/a.bin", tmp_path / "a.bin")


def archive(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as content:
        for name, text in files.items():
            content.writestr(name.replace("__", "/"), text)
    return buffer.getvalue()


def rows(server):
    return [
        {"format": "x", "url": server.url(name), "folder": folder, "unpack": unpacked, "size": "", "sha256": "",
         "licence": "free"}
        for name, folder, unpacked in (("list.json?download=1", "", "no"), ("images.zip", "images", "yes"))
    ]  # fmt: skip


def test_a_dataset_appears_when_it_is_whole(server, tmp_path):
    server.files["list.json?download=1"] = b"[]"
    with pytest.raises(ByeError, match="404"):
        fetch_dataset("x", tmp_path / "data", rows(server))
    assert not (tmp_path / "data").exists()
    server.files["images.zip"] = archive(train__0__image="pixels")
    assert fetch_dataset("x", tmp_path / "data", rows(server)) == 2
    assert (tmp_path / "data/images/train/0/image").read_text() == "pixels"
    assert (tmp_path / "data/list.json").read_bytes() == b"[]"
    assert len(server.asked) == 3  # the list was there already
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_damaged_archive_is_fetched_again(server, tmp_path):
    server.files |= {"list.json?download=1": b"[]", "images.zip": b"PK no archive"}
    with pytest.raises(ByeError, match="damaged archive"):
        fetch_dataset("x", tmp_path / "data", rows(server))
    server.files["images.zip"] = archive(a="b")
    fetch_dataset("x", tmp_path / "data", rows(server))
    assert (tmp_path / "data/images/a").read_text() == "b"


def test_an_archive_stays_in_its_folder(tmp_path):
    (tmp_path / "a.zip").write_bytes(archive(**{"..__..__out": "1", "__out": "2"}))
    unpack(tmp_path / "a.zip", tmp_path / "in")
    inside = {path.name for path in (tmp_path / "in").rglob("*")}
    assert inside == {"out"} and {path.name for path in tmp_path.iterdir()} == {"a.zip", "in"}


def test_official_sources():
    for form in ("scienceqa", "iconqa", "rsvqa"):
        assert all(row["url"].startswith("https://") and row["licence"] for row in sources(form))
    with pytest.raises(ByeError, match="given out on request"):
        sources("flickr30k")
    with pytest.raises(ByeError, match="no download of the format 'llava'"):
        sources("llava")
