"""A server that speaks OpenAI's chat protocol and misbehaves as it is told."""

import collections
import contextlib
import http.server
import json
import re
import threading
import time


class FakeServer(http.server.ThreadingHTTPServer):
    """plan: song title -> what to do with each request for it in turn; then, and else, answer.

    What there is to do: timeout, rubbish, not json, empty, truncated, cut, refused, filtered,
    unknown, an HTTP status, or ("429", seconds).
    """

    daemon_threads = True

    def __init__(self, plan, answers=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plan = {title: collections.deque(steps) for title, steps in plan.items()}
        self.answers = answers or {}
        self.requests, self.lock = [], threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        pass  # a client that went away


@contextlib.contextmanager
def serving(plan, answers=None):
    server = FakeServer(plan, answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        title = re.match(r'"(.*?)"', body["messages"][-1]["content"])[1]
        with self.server.lock:
            self.server.requests.append((time.monotonic(), title, self.path, body, self.headers))
            steps = self.server.plan.get(title)
            step = steps.popleft() if steps else "answer"
        text = self.server.answers.get(title, f"A calm piano tune with {title[::-1]} soft drums.")
        if step == "timeout":
            time.sleep(0.5)
            step = "answer"
        if isinstance(step, tuple) or (isinstance(step, str) and step.isdigit()):
            status, wait = step if isinstance(step, tuple) else (step, None)
            return self._send(int(status), b'{"error": {"message": "no"}}', wait)
        if step == "rubbish":
            return self._send(200, b'{"choices": []}')
        if step == "not json":
            return self._send(200, b"<html>busy</html>")
        if step == "cut":  # less than was promised, then gone
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [{"mess')
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return None
        why = {"truncated": "length", "filtered": "content_filter"}.get(step, "stop")
        text = {
            "truncated": text + " And then the strings begin to",
            "refused": "I'm sorry, but as an AI language model I cannot describe that song.",
            "unknown": "UNKNOWN.",
            "empty": "  ",
        }.get(step, text)
        choice = {
            "index": 0,
            "finish_reason": why,
            "message": {"role": "assistant", "content": text},
        }
        reply = {
            "id": "x",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [choice],
        }
        return self._send(200, json.dumps(reply).encode())

    def _send(self, status, content, wait=None):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if wait is not None:
            self.send_header("Retry-After", str(wait))
        self.end_headers()
        self.wfile.write(content)
