"""Settings of captions by a language model, and the answers that are kept as they come."""

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from casita.datasets_scripts.captions.llm_prompt import PROMPT
from casita.files import hash_file, hash_json

BACKENDS = ("openai", "transformers")


@dataclass(frozen=True, kw_only=True)
class LlmSettings:
    """The language model that writes, and how it is asked.

    Args:
        model: the endpoint's name of the model; for `transformers` a Hub id or a directory.
        backend: `openai`, an HTTP endpoint of that protocol, or `transformers`, a model in this process.
        base_url: the endpoint, with its `/v1`.
        temperature, max_tokens: passed on; None: the endpoint's own (`transformers`: 0.9 and 96 a caption).
        concurrency: requests under way at a time.
        timeout_s, retries: of one request; a busy or failing endpoint is asked again later and later.
        attempts: how often a window is asked whose answer cannot be used.
        batch_size, device: of `transformers`.
        seed: another one makes other answers.
        send_data: an endpoint on another machine may get what the sensors of this home saw.
    """

    model: str
    backend: str = "openai"
    base_url: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    concurrency: int = 8
    timeout_s: float = 60.0
    retries: int = 6
    attempts: int = 3
    batch_size: int = 8
    device: str | None = None
    seed: int = 0
    send_data: bool = False

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"llm backend {self.backend!r}: there are {', '.join(BACKENDS)}.")
        for name in ("concurrency", "timeout_s", "attempts", "batch_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"llm {name}={getattr(self, name)}: give more than 0.")

    def content(self) -> dict[str, Any]:
        """Return what an answer depends on, besides the window."""
        content = {name: getattr(self, name) for name in ("backend", "model", "temperature", "max_tokens", "seed")}
        if self.backend == "transformers":  # the draws of a batch depend on each other
            content |= {"batch_size": self.batch_size, "weights": _weights(self.model)}
        return content | {"prompt": hash_json(PROMPT)}


@cache
def _weights(model: str) -> str | None:
    return hash_file(Path(model)) if Path(model).is_dir() else None


class AnswerCache:
    """Answers by key, in memory and in an append-only JSONL file; safe to use from several threads.

    A last line that a killed process left unfinished is cut off.
    """

    def __init__(self, path: Path):
        self.path = path
        self.answers: dict[str, list[str]] = {}
        self.requests = self.prompt_tokens = self.answer_tokens = 0  # of this process
        self._lock = Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        with path.open("rb") as file:
            end = 0
            for line in file:
                if not line.endswith(b"\n"):
                    break
                entry = json.loads(line)
                self.answers[entry["key"]] = entry["captions"]
                end += len(line)
        os.truncate(path, end)

    def __contains__(self, key: str) -> bool:
        return key in self.answers

    def add(self, key: str, captions: list[str]) -> None:
        """Keep an answer: one write, whole before this returns."""
        line = json.dumps({"key": key, "captions": captions}, ensure_ascii=False) + "\n"
        with self._lock:
            os.write(self._file, line.encode())
            self.answers[key] = captions

    def count(self, requests: int, prompt_tokens: int, answer_tokens: int) -> None:
        """Add to what was spent."""
        with self._lock:
            self.requests += requests
            self.prompt_tokens += prompt_tokens
            self.answer_tokens += answer_tokens

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
