"""A chat server on this machine that answers by a function; tests load this file by its path."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Status, body and seconds to wait, of a reply to one request; the headers ask for retries without a wait.
Reply = tuple[int, Any, float]


def said(text: str | None) -> dict[str, Any]:
    """A chat completion."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


class Server:
    """Answers every request by ``reply`` and keeps the requests, their headers, and how many were under way at once."""

    def __init__(self, reply: Callable[[dict[str, Any]], Reply]) -> None:
        self.reply, self.requests, self.headers = reply, [], []
        self.under_way, self.most = 0, 0
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                server.answer(self)

            def log_message(self, *arguments: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.requests.append(request)
            self.headers.append({k.lower(): v for k, v in handler.headers.items()} | {"path": handler.path})
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        status, body, seconds = self.reply(request)
        time.sleep(seconds)
        with self.lock:
            self.under_way -= 1
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        try:
            handler.send_response(status)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(data)))
            handler.send_header("Retry-After-Ms", "1")
            handler.end_headers()
            handler.wfile.write(data)
        except OSError:  # the client no longer waits
            handler.close_connection = True


@contextmanager
def serving(reply: Callable[[dict[str, Any]], Reply]) -> Iterator[Server]:
    server = Server(reply)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
