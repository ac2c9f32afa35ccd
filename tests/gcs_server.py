"""tests/object_store.py's store over HTTP, as much of Google's JSON API as its clients use here.

tensorstore, which writes and reads the arrays of checkpoints, has a client of its own that knows no
fsspec, and gcsfs has another one.
"""

import contextlib
import json
import re
import secrets
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.object_store import Store

OBJECT = re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, *args):
        pass

    def _answer(self, status=200, body=b"", kind="application/json", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        if status != 304:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _handle(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        try:
            self._act(url.path, query, body)
        except FileNotFoundError:
            self._answer(404, {"error": {"code": 404, "message": "not found"}})
        except ConnectionError:  # the client was killed
            self.close_connection = True
        except OSError as e:
            self._answer(403, {"error": {"code": 403, "message": str(e)}})

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def _act(self, path, query, body):
        store = self.server.store
        if path.startswith("/upload/"):
            self._upload(path, query, body)
        elif "/rewriteTo/" in path or "/copyTo/" in path or "/compose" in path:
            store.refused.append(path)
            self._answer(501)
        elif match := OBJECT.fullmatch(path):
            bucket, name = map(urllib.parse.unquote, match.groups())
            self._object(bucket, name, query)
        elif match := re.fullmatch(r"/storage/v1/b/([^/]+)/o", path):
            self._list(match[1], query)
        elif match := re.fullmatch(r"/storage/v1/b/([^/]+)", path):
            self._answer(body={"kind": "storage#bucket", "name": match[1]})
        else:
            self._answer(501, {"error": {"code": 501, "message": path}})

    def _about(self, bucket, name):
        generation, data = self.server.store.get(f"{bucket}/{name}")
        return {
            "kind": "storage#object", "bucket": bucket, "name": name, "size": str(len(data)),
            "generation": str(generation), "metageneration": "1", "etag": f"e{generation}",
            "updated": "2026-01-01T00:00:00.000Z", "timeCreated": "2026-01-01T00:00:00.000Z",
        }  # fmt: skip

    def _object(self, bucket, name, query):
        store, full = self.server.store, f"{bucket}/{name}"
        if self.command == "DELETE":
            if self._stale(full, query):
                self._answer(412)
            else:
                store.delete(full)
                self._answer(204)
            return
        generation, data = store.get(full)
        if query.get("alt") != "media":
            self._answer(body=self._about(bucket, name))
        elif query.get("ifGenerationNotMatch") == str(generation):
            self._answer(304)
        else:
            headers = {"x_goog_generation": generation}
            wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if wanted is None:
                self._answer(200, data, "application/octet-stream", **headers)
                return
            begin, end = (int(x) if x else None for x in wanted.groups())
            if begin is None:
                begin, end = max(len(data) - end, 0), None
            end = len(data) if end is None else min(end + 1, len(data))
            headers["Content_Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
            self._answer(206, data[begin:end], "application/octet-stream", **headers)

    def _stale(self, full, query):
        wanted = query.get("ifGenerationMatch")
        try:
            now = str(self.server.store.get(full)[0])
        except FileNotFoundError:
            now = "0"
        return wanted is not None and wanted != now

    def _list(self, bucket, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], set()
        for full, size in self.server.store.listing(f"{bucket}/{prefix}").items():
            name = full.removeprefix(bucket + "/")
            if name < query.get("startOffset", "") or name >= query.get("endOffset", "\uffff"):
                continue
            below = name[len(prefix) :]
            if delimiter and delimiter in below:
                prefixes.add(prefix + below.split(delimiter)[0] + delimiter)
                continue
            items.append({"name": name, "bucket": bucket, "size": str(size), "generation": "1",
                          "updated": "2026-01-01T00:00:00.000Z"})  # fmt: skip
        self._answer(body={"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def _upload(self, path, query, body):
        server = self.server
        if path.startswith("/upload/resumed/"):
            key = path.rsplit("/", 1)[1]
            if self.command == "DELETE":
                server.uploads.pop(key)
                self._answer(499)
                return
            bucket, name, parts = server.uploads[key]
            total = self.headers["Content-Range"].rsplit("/", 1)[1]
            parts += body
            if total == "*" or len(parts) < int(total):
                self._answer(308, Range=f"bytes=0-{len(parts) - 1}")
                return
            body = bytes(parts)
        else:
            bucket = urllib.parse.unquote(re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", path)[1])
            name = query.get("name")
            if query["uploadType"] == "resumable":
                key = secrets.token_hex(16)
                server.uploads[key] = bucket, name or json.loads(body)["name"], bytearray()
                self._answer(Location=f"{server.url}/upload/resumed/{key}")
                return
            if query["uploadType"] == "multipart":
                boundary = re.search('boundary="?([^";]+)', self.headers["Content-Type"])[1]
                _, about, data, _ = body.split(f"--{boundary}".encode(), 3)
                about, data = (re.split(rb"\r?\n\r?\n", x, maxsplit=1)[1] for x in (about, data))
                name, body = json.loads(about)["name"], re.sub(rb"\r?\n\Z", b"", data)
            if self._stale(f"{bucket}/{name}", query):
                self._answer(412)
                return
        server.store.put(f"{bucket}/{name}", body)
        self._answer(body=self._about(bucket, name))


class Server(ThreadingHTTPServer):
    """Serves `store`, which may be exchanged."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = Store()
        self.uploads: dict[str, tuple[str, str, bytearray]] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server in threads of its own."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
