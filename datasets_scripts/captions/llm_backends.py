"""Two backends of a language model: an endpoint that speaks OpenAI's protocol, and transformers in this process."""

import ipaddress
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from casita.datasets_scripts.captions.llm_answers import AnswerCache, LlmSettings
from casita.datasets_scripts.captions.llm_prompt import Messages, read_answer, read_line
from casita.files import hash_json

Prompts = Iterator[tuple[str, Messages]]  # the key of an answer, and what to ask
HOPELESS = (401, 403, 404)  # no other window will fare better
GIVE_UP = 20  # windows in succession without one answer


def is_loopback(url: str) -> bool:
    """Return whether the endpoint runs on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class OpenAIWriter:
    """A writer that asks an endpoint for all captions of a window in one request, several requests at a time.

    Raises:
        ValueError: no endpoint named, one on another machine without leave to send, or the package is missing.
    """

    def __init__(self, settings: LlmSettings, captions: int):
        url = settings.base_url
        if not url or urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(
                f"the endpoint is {url!r}, expected http://HOST/v1. Give --llm-base-url, or set CASITA_LLM_BASE_URL."
            )
        if not (is_loopback(url) or settings.send_data):
            raise ValueError(
                f"{url} is not on this machine, and what the sensors saw shows the routine of those who live there. "
                "If they agree that it goes there, say --llm-send-data; or use an endpoint on this machine."
            )
        try:
            from openai import OpenAI
        except ImportError:
            raise ValueError("the llm backend openai needs its package: pip install 'casita[llm]'") from None
        key = os.environ.get("CASITA_LLM_API_KEY") or "none"  # a server on this machine mostly wants no key
        self.client: Any = OpenAI(
            base_url=url, api_key=key, timeout=settings.timeout_s, max_retries=settings.retries
        )  # it waits longer from retry to retry, or as long as Retry-After says
        self.settings = settings
        self.captions = captions
        given = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
        self.options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}

    def write(self, prompts: Prompts, answers: AnswerCache) -> dict[str, str]:
        """Put an answer for each of `prompts` into `answers`; return why some could not be had, by key.

        Raises:
            ValueError: the endpoint refuses every request, or has failed `GIVE_UP` windows in succession.
        """
        failed: dict[str, str] = {}
        in_succession = 0
        pool = ThreadPoolExecutor(self.settings.concurrency)
        try:
            waiting: set[Future] = set()
            todo = ((key, prompt) for key, prompt in prompts if key not in answers)
            while True:
                for key, prompt in islice(todo, 2 * self.settings.concurrency - len(waiting)):
                    waiting.add(pool.submit(self._ask, key, prompt, answers))
                if not waiting:
                    return failed
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for key, why in (future.result() for future in done):
                    in_succession = in_succession + 1 if why else 0
                    if why:
                        failed[key] = why
                    if in_succession >= GIVE_UP:
                        raise ValueError(
                            f"{self.settings.base_url}: {in_succession} windows failed in succession: {why}"
                        )
        finally:
            pool.shutdown(cancel_futures=True)

    def _ask(self, key: str, prompt: Messages, answers: AnswerCache) -> tuple[str, str | None]:
        """Return the key, and why there is no answer (None: it is in `answers`)."""
        from openai import APIError, APIStatusError

        why: str | None = None
        for _ in range(self.settings.attempts):
            try:
                response = self.client.chat.completions.with_raw_response.create(
                    model=self.settings.model,
                    messages=prompt,
                    **self.options,
                )
                answer = response.parse()
            except APIError as error:
                if isinstance(error, APIStatusError) and error.status_code in HOPELESS:
                    raise ValueError(f"{self.settings.base_url}: {_line(error)}. Check URL, model and key.") from None
                answers.count(1 + self.settings.retries, 0, 0)
                return key, _line(error)
            usage = answer.usage
            answers.count(
                1 + response.retries_taken,
                usage.prompt_tokens if usage else 0,
                usage.completion_tokens if usage else 0,
            )
            try:
                answers.add(key, read_answer(answer.choices[0].message.content, self.captions))
                return key, None
            except (ValueError, IndexError) as error:
                why = f"unusable answer: {_line(error)}"
        return key, why


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


class TransformersWriter:
    """A causal language model in this process; each caption is a draw of its own, asked for as a plain line.

    The draws depend on the seed and the batch's prompts alone: a run that was interrupted ends as an undisturbed one.

    Raises:
        ValueError: the model cannot be loaded.
    """

    def __init__(self, settings: LlmSettings, captions: int):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(settings.model, padding_side="left")
            self.model: Any = AutoModelForCausalLM.from_pretrained(settings.model)
        except (OSError, ValueError) as error:
            raise ValueError(f"language model {settings.model!r} could not be loaded ({_line(error)}).") from None
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        device: Any = settings.device or (torch.accelerator.current_accelerator(check_available=True) or "cpu")
        self.model.to(device).eval()
        self.settings = settings
        self.captions = captions

    def write(self, prompts: Prompts, answers: AnswerCache) -> dict[str, str]:
        """Put an answer for each of `prompts` into `answers`; return why some could not be had, by key."""
        failed: dict[str, str] = {}
        while batch := list(islice(prompts, self.settings.batch_size)):
            # The whole batch again, even where most of it is there: a batch of others would draw otherwise.
            if not all(key in answers for key, _ in batch):
                failed |= self._write_batch(batch, answers)
        return failed

    def _write_batch(self, batch: list[tuple[str, Messages]], answers: AnswerCache) -> dict[str, str]:
        by_key: dict[str, list[str]] = {key: [] for key, _ in batch}
        failed: dict[str, str] = {}
        for attempt in range(self.settings.attempts):
            lines, tokens_in, tokens_out = self._draw([prompt for _, prompt in batch], [*by_key, attempt])
            answers.count(1, tokens_in, tokens_out)
            for i, (key, captions) in enumerate(by_key.items()):
                for line in lines[i * self.captions : (i + 1) * self.captions]:
                    try:
                        caption = read_line(line)
                    except ValueError as error:
                        failed[key] = f"unusable answer: {error}"
                        continue
                    if caption not in captions and len(captions) < self.captions:
                        captions.append(caption)
            if all(len(captions) == self.captions for captions in by_key.values()):
                break
        for key, captions in by_key.items():
            if len(captions) == self.captions:
                failed.pop(key, None)
                if key not in answers:
                    answers.add(key, captions)
            else:
                failed.setdefault(key, f"{len(captions)} different captions instead of {self.captions}")
        return failed

    def _draw(self, chats: list[Messages], name: list[Any]) -> tuple[list[str], int, int]:
        """Draw `captions` texts for each of the chats, in their order; return them and the tokens read and written."""
        import torch

        inputs = self.tokenizer([self._text(chat) for chat in chats], return_tensors="pt", padding=True)
        inputs = inputs.to(self.model.device)
        seed = int(hash_json([self.settings.seed, name])[:15], 16)
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            tokens = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=True,
                temperature=0.9 if self.settings.temperature is None else self.settings.temperature,
                top_p=0.95,
                max_new_tokens=self.settings.max_tokens or 96,
                num_return_sequences=self.captions,
                pad_token_id=self.tokenizer.pad_token_id,
            )[:, inputs["input_ids"].shape[1] :]
        written = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return written, int(inputs["attention_mask"].sum()), int((tokens != self.tokenizer.pad_token_id).sum())

    def _text(self, chat: Messages) -> str:
        if self.tokenizer.chat_template:
            return self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return "\n\n".join(message["content"] for message in chat) + "\n\nDescription:"
