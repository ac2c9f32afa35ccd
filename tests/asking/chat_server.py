"""A model's server on this machine whose replies, and failures, are scripted."""

import contextlib
import dataclasses
import http.server
import json
import threading
import time
from collections.abc import Callable


@dataclasses.dataclass
class Request:
    """One that came: its path, and of a question the body and which one it was of its kind."""

    path: str
    body: dict
    key: str  # "" if it came without one
    number: int  # of requests with the same body, from 0

    @property
    def text(self):
        """All texts of the user's message, joined."""
        parts = self.body["messages"][-1]["content"]
        return "\n".join(part["text"] for part in parts if part["type"] == "text")

    @property
    def pictures(self):
        """Addresses of its pictures, in their order."""
        parts = self.body["messages"][-1]["content"]
        return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


@dataclasses.dataclass
class Response:
    """What is sent back: JSON values or raw bytes; after `delay` seconds, in so many chunks."""

    status: int = 200
    body: dict | list | bytes = b""
    headers: dict = dataclasses.field(default_factory=dict)
    delay: float = 0
    drip: float = 0  # seconds between single bytes


def completion(text, model="toy-model", end="stop", **message):
    """A completion as servers give it, of 100 tokens in and 10 out."""
    message = {"role": "assistant", "content": text} | message
    return Response(
        body={
            "id": "x",
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": end}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }
    )


def error(status, code=None, message="no", headers=None, **more):
    """An error as OpenAI gives it."""
    return Response(status, {"error": {"message": message, "code": code} | more}, headers or {})


@dataclasses.dataclass
class ChatServer:
    """The requests that came, and what is answered to them."""

    script: Callable[[Request], Response]
    models: Response
    url: str = ""
    requests: list = dataclasses.field(default_factory=list)

    @property
    def questions(self):
        """The requests that were questions."""
        return [one for one in self.requests if one.path.endswith("/chat/completions")]


@contextlib.contextmanager
def serving(script, models=None):
    """Runs a server while the block does.

    Args:
      script: from a question to its response.
      models: the response to GET /models; None: the server has no such address.
    """
    server = ChatServer(script, models or Response(404, {"error": "nothing here"}))
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.respond({}, lambda request: server.models)

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            self.respond(json.loads(self.rfile.read(length)), server.script)

        def respond(self, body, script):
            key = self.headers.get("Authorization", "")
            with lock:
                number = sum(one.body == body for one in server.requests)
                request = Request(self.path, body, key, number)
                server.requests.append(request)
            response = script(request)
            time.sleep(response.delay)
            data = response.body
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            with contextlib.suppress(OSError):  # the one who asked may have gone
                self.send_response(response.status)
                for name, value in response.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                for i in range(len(data)) if response.drip else ():
                    self.wfile.write(data[i : i + 1])
                    time.sleep(response.drip)
                if not response.drip:
                    self.wfile.write(data)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        listening.block_on_close = False
        server.url = f"http://127.0.0.1:{listening.server_port}/v1"
        threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            listening.shutdown()
