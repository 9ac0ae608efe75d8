"""Captions by a language model: the style `llm`, asked window by window, kept as answers come, resumable.

Answers go into an append-only file beside the captions (`captions/llm.cache.jsonl`), a line each, under the hash of
prompt, model and settings. A command that was killed asks only for what is not there yet.
"""

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from casita.datasets_scripts.captions.facts import facts_of
from casita.datasets_scripts.captions.llm_answers import BACKENDS, AnswerCache, LlmSettings
from casita.datasets_scripts.captions.llm_backends import OpenAIWriter, TransformersWriter
from casita.datasets_scripts.captions.llm_prompt import Messages, messages
from casita.datasets_scripts.layouts.layout import Layout
from casita.files import hash_json, write_json


def ask_for_captions(
    windows: pa.Table, layout: Layout, llm: LlmSettings, cache_path: Path, captions: int = 1
) -> tuple[list[list[str]], dict[str, Any]]:
    """Return for each row of `windows` its `captions` captions, and the cost: requests, tokens in and out, seconds.

    Raises:
        ValueError: the endpoint or model cannot be used, or some windows got no usable answer; these are listed in
            `<cache_path>.failed.json`, and the answers of all others are kept.
    """
    begun = time.monotonic()
    writer = (OpenAIWriter if llm.backend == "openai" else TransformersWriter)(llm, captions)
    answers = AnswerCache(cache_path)
    keys: list[str] = []  # of each window
    try:
        with tqdm(total=windows.num_rows, desc="captions by llm", unit="window") as bar:
            failed = writer.write(_prompts(windows, layout, llm, captions, keys, bar), answers)
    finally:
        answers.close()
    listing = cache_path.with_suffix(".failed.json")
    listing.unlink(missing_ok=True)
    if failed:
        ids = windows["window_id"].to_pylist()
        write_json(listing, {ids[i]: failed[key] for i, key in enumerate(keys) if key in failed})
        raise ValueError(
            f"{sum(key in failed for key in keys)} of {len(keys)} windows got no usable answer, listed in {listing}; "
            f"the first: {next(iter(failed.values()))}. The others are kept: run the command again to ask for these."
        )
    spent = {name: getattr(answers, name) for name in ("requests", "prompt_tokens", "answer_tokens")}
    return [answers.answers[key] for key in keys], {**spent, "seconds": round(time.monotonic() - begun, 1)}


def _prompts(
    windows: pa.Table, layout: Layout, llm: LlmSettings, captions: int, keys: list[str], bar: tqdm
) -> Iterator[tuple[str, Messages]]:
    """Yield each different prompt once, with its key; `keys` gets the key of every window meanwhile."""
    content = llm.content()
    seen = set[str]()
    for chunk in facts_of(windows, layout):
        for facts in chunk:
            prompt = messages(facts, captions if llm.backend == "openai" else None)
            key = hash_json([content, captions, prompt])
            keys.append(key)
            bar.update()
            if key not in seen:
                seen.add(key)
                yield key, prompt


def add_llm_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the `--llm-*` options."""
    group = parser.add_argument_group(
        "--caption-style llm",
        "A language model words each window's facts. Model and endpoint may also come from CASITA_LLM_MODEL and "
        "CASITA_LLM_BASE_URL; the key only from CASITA_LLM_API_KEY.",
    )
    add = group.add_argument
    add("--llm-backend", choices=BACKENDS, help="an OpenAI-compatible endpoint (default), or a model in this process")
    add("--llm-base-url", metavar="URL", help="the endpoint, such as http://127.0.0.1:8000/v1")
    add("--llm-model", metavar="MODEL", help="its name there; for transformers a Hub id or a directory")
    add("--llm-concurrency", type=int, metavar="N", help="requests at a time (default 8)")
    add("--llm-temperature", type=float, metavar="T", help="default: the endpoint's own; transformers 0.9")
    add("--llm-max-tokens", type=int, metavar="N", help="of an answer; default: the endpoint's own; transformers 96")
    add("--llm-timeout-s", type=float, metavar="S", help="of a request (default 60)")
    add("--llm-retries", type=int, metavar="N", help="of a request that failed (default 6)")
    add("--llm-batch-size", type=int, metavar="N", help="windows at a time, for transformers (default 8)")
    add("--llm-device", metavar="DEVICE", help="for transformers (default: the accelerator if there is one)")
    add(
        "--llm-send-data",
        action="store_true",
        default=None,
        help="let an endpoint on another machine have what the sensors saw: the routine of those who live there",
    )


def llm_settings_from(args: argparse.Namespace | None = None) -> LlmSettings:
    """Read `--llm-*` options over the environment (`CASITA_LLM_MODEL`, `CASITA_LLM_BASE_URL`) over the defaults."""
    settings = {"seed": args.seed} if args is not None else {}
    for field in fields(LlmSettings):
        value = getattr(args, f"llm_{field.name}", None)
        if value is None and field.name in ("model", "base_url"):
            value = os.environ.get(f"CASITA_LLM_{field.name.upper()}") or None
        if value is not None:
            settings[field.name] = value
    if "model" not in settings:
        raise ValueError("captions by a language model need its name: --llm-model NAME, or CASITA_LLM_MODEL.")
    return LlmSettings(**settings)
