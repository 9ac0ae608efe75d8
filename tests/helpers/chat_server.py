"""A small HTTP server that speaks /v1/chat/completions on a free loopback port."""

import json
import re
import threading
import time
from collections.abc import Callable
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def good_captions(prompt: str, count: int) -> list[str]:
    """Captions that follow from the prompt alone."""
    name = blake2b(prompt.encode(), digest_size=6).hexdigest()
    return [f"Somebody moved about, as wording {i} of {name} says." for i in range(count)]


def good_answer(prompt: str) -> str:
    count = int(re.search(r"Write (\d+) descriptions", prompt)[1])
    return json.dumps({"captions": good_captions(prompt, count)})


Reply = tuple[int, dict[str, str], str]  # status, headers, content


class ChatServer(ThreadingHTTPServer):
    """Keeps the prompts it was asked, in order; `behave(nth, prompt)` gives status, headers and the message's text."""

    daemon_threads = True

    def __init__(self, behave: Callable[[int, str], Reply] | None = None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave = behave or (lambda nth, prompt: (200, {}, good_answer(prompt)))
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def prompts(self) -> list[str]:
        return [request["messages"][-1]["content"] for request in self.requests]


class Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = request["messages"][-1]["content"]
        with self.server.lock:
            self.server.requests.append(request)
            self.server.keys.append(self.headers["Authorization"])
            nth = len(self.server.requests)
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        assert self.path == "/v1/chat/completions"
        status, headers, text = self.server.behave(nth, prompt)
        with self.server.lock:
            self.server.at_once -= 1
        message = {"role": "assistant", "content": text}
        content = {
            "id": f"chat-{nth}",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        }
        body = json.dumps(content if status == 200 else {"error": {"message": text, "type": "error"}}).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def slowly(nth: int, prompt: str) -> Reply:
    """A good answer after a while."""
    time.sleep(0.05)
    return 200, {}, good_answer(prompt)
