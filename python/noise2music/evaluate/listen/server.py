"""The web page of a study on this machine, on Python's own http.server.

Four kinds of answers: three files of this package, `/api/next` and `/api/rate` (JSON),
`/clip/ID/left` (the sound of a trial, as a bare WAV of one rate and length for all sources, without
its name and metadata), and `/results?key=...`. A path is never made from what a browser sends:
clips are found by the trial's random id in the study's file.
"""

from __future__ import annotations

import functools
import html
import io
import json
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from noise2music.audio import limit_peak, read_audio, resample
from noise2music.errors import UserError
from noise2music.evaluate.listen.scores import scores
from noise2music.evaluate.listen.study import Study, check_name

_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
_POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
_MAX_BODY = 4096


class Server(ThreadingHTTPServer):
    """Serves one study. `url` is for raters, `results_url` for whoever runs the study.

    rate, seconds: what all clips are brought to, so that neither tells the source. names: hosts by
    which the page may be asked for, beside the address it listens on; another one is refused, so
    that no foreign page can reach it through the browser.
    """

    daemon_threads = True

    def __init__(
        self,
        study: Study,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        rate: int = 16_000,
        seconds: float = 10.0,
        names: tuple[str, ...] = (),
        key: str | None = None,
    ):
        self.study, self.rate, self.seconds = study, rate, seconds
        self.key = key or secrets.token_urlsafe(12)
        super().__init__((host, port), _Handler)
        self.names = {host, "localhost", "127.0.0.1", *names}
        self.wav = functools.lru_cache(maxsize=64)(self._wav)

    @property
    def url(self) -> str:
        """Where raters go."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}/"

    @property
    def results_url(self) -> str:
        """Where the results are; the key keeps raters from them."""
        return f"{self.url}results?key={self.key}"

    def start(self) -> threading.Thread:
        """Serves in a thread until `shutdown`."""
        thread = threading.Thread(target=self.serve_forever, daemon=True)
        thread.start()
        return thread

    def _wav(self, path: Path) -> bytes:
        import soundfile

        samples, own = read_audio(path)
        sound = limit_peak(resample(samples, own, self.rate))
        length = round(self.seconds * self.rate)
        sound = np.pad(sound[:length], (0, max(0, length - sound.size)))
        data = io.BytesIO()
        soundfile.write(data, sound, self.rate, subtype="PCM_16", format="WAV")
        return data.getvalue()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "noise2music", ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, format: str, *args: Any) -> None:
        pass  # a rater's address and name are nobody's business

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if not self._known_host():
            return self._error(HTTPStatus.FORBIDDEN, "this host is not served here")
        if url.path in _FILES:
            name, kind = _FILES[url.path]
            folder = resources.files("noise2music.evaluate.listen")
            return self._send(HTTPStatus.OK, kind, (folder / name).read_bytes())
        parts = [unquote(part) for part in url.path.split("/")]
        if len(parts) == 4 and parts[1] == "clip":
            try:
                sound = self.server.wav(self.server.study.clip(parts[2], parts[3]))
            except KeyError:
                return self._error(HTTPStatus.NOT_FOUND, "no such clip")
            except UserError:  # the file was moved; its name stays here
                return self._error(HTTPStatus.GONE, "the clip cannot be read any more")
            return self._send(HTTPStatus.OK, "audio/wav", sound)
        if url.path == "/results":
            given = parse_qs(url.query).get("key", [""])[0]
            if secrets.compare_digest(given.encode(), self.server.key.encode()):
                page = results_page(self.server.study).encode()
                return self._send(HTTPStatus.OK, "text/html; charset=utf-8", page)
            return self._error(HTTPStatus.FORBIDDEN, "the results need their key")
        return self._error(HTTPStatus.NOT_FOUND, "no such page")

    def do_POST(self) -> None:
        if not self._known_host():
            return self._error(HTTPStatus.FORBIDDEN, "this host is not served here")
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > _MAX_BODY:
            self.close_connection = True
            return self._error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too long")
        body = self.rfile.read(int(length))
        # A form of another site cannot send this type without the browser asking first.
        if self.headers.get_content_type() != "application/json":
            return self._error(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "JSON is expected")
        try:
            asked = json.loads(body)
            if not isinstance(asked, dict):
                raise ValueError("an object is expected")
            rater = check_name(asked.get("rater"))
            if self.path == "/api/next":
                return self._json(HTTPStatus.OK, self._next(rater))
            if self.path == "/api/rate":
                self.server.study.rate(str(asked.get("trial")), rater, asked.get("score", 0))
                return self._json(HTTPStatus.OK, {})
        except ValueError as error:  # also of json
            return self._error(HTTPStatus.BAD_REQUEST, str(error))
        except KeyError:
            return self._error(HTTPStatus.NOT_FOUND, "no such open trial of this rater")
        return self._error(HTTPStatus.NOT_FOUND, "no such page")

    def _next(self, rater: str) -> dict[str, Any]:
        trial = self.server.study.next_trial(rater)
        if trial is None:
            return {"trial": None}
        return {
            "trial": trial.id,
            "caption": trial.caption,
            "done": trial.done,
            "total": trial.total,
        }

    def _known_host(self) -> bool:
        try:
            name = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        except ValueError:
            return False
        return name in self.server.names

    def _error(self, status: HTTPStatus, text: str) -> None:
        self._json(status, {"error": text})

    def _json(self, status: HTTPStatus, value: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", _POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def results_table(study: Study) -> list[list[str]]:
    """Table 7 with scores: the first row is the heading."""
    head = ["source", "comparisons", "wins", "no difference", "Bradley-Terry", "95 % interval"]
    rows = [
        [
            s.source, str(s.comparisons), str(s.wins), str(s.ties), f"{s.theta:+.2f}",
            f"{s.low:+.2f} to {s.high:+.2f}",
        ]
        for s in scores(study.ratings(), study.sources)
    ]  # fmt: skip
    return [head, *rows]


def results_page(study: Study) -> str:
    """The results as HTML, everything escaped."""
    ratings = study.ratings()
    raters: dict[str, int] = {}
    for rating in ratings:
        raters[rating.rater] = raters.get(rating.rater, 0) + 1

    def table(rows: list[list[str]]) -> str:
        lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
        return "<table><tr>" + "</tr><tr>".join(lines) + "</tr></table>"

    by_rater = [["rater", "ratings"], *([name, str(n)] for name, n in sorted(raters.items()))]
    return (
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Results</title>'
        '<link rel="stylesheet" href="/page.css"><main><h1>Results</h1>'
        f"<p>{len(ratings)} ratings by {len(raters)} raters.</p>{table(results_table(study))}"
        f"<h2>Raters</h2>{table(by_rater)}</main></html>"
    )
