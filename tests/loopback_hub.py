"""A hub of checkpoints on this machine: one folder served by the addresses that the hub's library asks for."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = "owner/model"
COMMIT = "0" * 40


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path, folder = self.path.partition("?")[0], Path(self.server.folder)
        self.server.asked.append(path)
        names = sorted(file.name for file in folder.iterdir())
        if path == f"/api/models/{NAME}/tree/main":
            files = [{"type": "file", "path": name, "size": 1, "oid": COMMIT} for name in names]
            return self.send(json.dumps(files).encode(), body)
        if path in (f"/api/models/{NAME}", f"/api/models/{NAME}/revision/main"):
            return self.send(json.dumps({"id": NAME, "sha": COMMIT, "siblings": []}).encode(), body)
        owner, _, rest = path.lstrip("/").partition("/resolve/")
        name = rest.partition("/")[2]
        if owner == NAME and name in names:
            return self.send((folder / name).read_bytes(), body)
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound" if NAME in path else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def hub_of(folder):
    """Serve a model folder as the repository NAME; yields the address, to be set as HF_ENDPOINT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder, server.asked = folder, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
