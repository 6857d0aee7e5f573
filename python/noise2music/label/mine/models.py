"""Who is asked: an endpoint that speaks OpenAI's chat protocol, or a local `transformers` model."""

from __future__ import annotations

import dataclasses
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Protocol

from noise2music.errors import UserError, import_extra
from noise2music.label.mine.prompt import Song, messages, plain


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back. whole: False where the model stopped at its limit of tokens."""

    text: str
    whole: bool


class Trouble(Exception):
    """No usable answer. reason: a short word to count by. wait: seconds, where the server says."""

    def __init__(self, reason: str, detail: str = "", wait: float | None = None):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.wait = reason, wait


class Model(Protocol):
    """Answers one prompt; safe to call from several threads where `parallel` is true."""

    name: str
    parallel: bool

    def describe(self, song: Song) -> Answer:
        """Raises Trouble where there is no answer, UserError where there will never be one."""
        ...


class Endpoint:
    """POST {url}/chat/completions, as OpenAI's servers and those that copy them take it."""

    parallel = True

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        timeout: float = 60.0,
        max_tokens: int = 256,
        temperature: float = 0.7,
    ):
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise UserError(f"the endpoint must be http://... or https://..., got {url!r}")
        self.name = model
        self._url = url.rstrip("/") + "/chat/completions"
        self._key, self._timeout = key, timeout
        self._fixed = {"model": model, "max_tokens": max_tokens, "temperature": temperature}

    def describe(self, song: Song) -> Answer:
        body = json.dumps({**self._fixed, "messages": messages(song)}).encode()
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                content = response.read()
        except urllib.error.HTTPError as error:
            with error:
                raise _of_status(error) from error
        except TimeoutError as error:
            raise Trouble("timeout", f"{self._timeout:g} s") from error
        except urllib.error.URLError as error:
            timeout = isinstance(error.reason, TimeoutError)
            raise Trouble("timeout" if timeout else "unreachable", str(error.reason)) from error
        except (OSError, http.client.HTTPException) as error:  # cut off in the middle
            raise Trouble("broken off", repr(error)) from error
        return _read(content)


def _of_status(error: urllib.error.HTTPError) -> Exception:
    if error.code == 429:
        wait = error.headers.get("Retry-After", "")
        return Trouble("429", "too many requests", float(wait) if wait.isdigit() else None)
    if error.code >= 500 or error.code == 408:
        return Trouble(str(error.code), error.reason)
    detail = error.read(300).decode("utf-8", "replace")
    return UserError(f"the endpoint refuses the request: {error.code} {error.reason}. {detail}")


def _read(content: bytes) -> Answer:
    try:
        choice = json.loads(content)["choices"][0]
        text, why = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Trouble("rubbish", f"{content[:80]!r}") from error
    if why == "content_filter":
        raise Trouble("refused", "by the server's filter")
    if not isinstance(text, str) or not text.strip():
        raise Trouble("rubbish", "no text")
    return Answer(text, why != "length")


class LocalModel:
    """A causal language model of `transformers` from a folder; greedy, so it is repeatable."""

    parallel = False

    def __init__(self, folder: str, *, max_tokens: int = 256):
        transformers = import_extra(
            "transformers", extra="pip install transformers torch", purpose="a local model"
        )
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True
            )
            self._model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise UserError(f"no language model can be loaded from {folder!r}: {error}") from error
        self.name, self._limit = folder, max_tokens

    def describe(self, song: Song) -> Answer:
        tokens = self._encode(song)
        start = tokens.shape[1]
        made = self._model.generate(
            tokens,
            attention_mask=tokens.new_ones(tokens.shape),
            max_new_tokens=self._limit,
            do_sample=False,
            pad_token_id=self._tokenizer.eos_token_id,
        )[0, start:]
        text = self._tokenizer.decode(made, skip_special_tokens=True)
        ended = int(made[-1]) == self._tokenizer.eos_token_id or len(made) < self._limit
        if getattr(self._tokenizer, "chat_template", None) is None:
            # A model that only continues text goes on with the next song after a blank line.
            text, _, more = text.partition("\n\n")
            ended = ended or bool(more)
        if not text.strip():
            raise Trouble("rubbish", "no text")
        return Answer(text, ended)

    def _encode(self, song: Song) -> Any:
        if getattr(self._tokenizer, "chat_template", None) is not None:
            return self._tokenizer.apply_chat_template(
                messages(song), add_generation_prompt=True, return_tensors="pt", return_dict=True
            )["input_ids"]
        return self._tokenizer(plain(song), return_tensors="pt")["input_ids"]
