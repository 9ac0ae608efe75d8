"""Captions by a language model: over real HTTP from a server in this process, and by tiny models made on the spot."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from chat_server import ChatServer, good_answer, good_captions, slowly
from tiny_text_models import make_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from casita import cli
from casita.datasets_scripts.captions import llm_prompt
from casita.datasets_scripts.captions.caption import caption_home
from casita.datasets_scripts.captions.facts import COLUMNS, Facts, facts_of
from casita.datasets_scripts.captions.llm import llm_settings_from
from casita.datasets_scripts.captions.llm_answers import AnswerCache, LlmSettings
from casita.datasets_scripts.captions.llm_backends import is_loopback
from casita.datasets_scripts.captions.llm_prompt import messages, read_answer, read_line
from casita.datasets_scripts.captions.quality_report import label_words
from casita.datasets_scripts.layouts.layout import load_layout
from casita.datasets_scripts.readers.read import read_events
from casita.datasets_scripts.schema import CAPTIONS, WINDOWS, HomeFolder, read_table, write_table
from casita.datasets_scripts.windows.cut import WindowSettings, build_windows

KEYS = ["M012_ON", "M002_ON", "M005_ON", "D002_OPEN", "D002_CLOSE", "M009_ON", "M016_ON"]


def rows_of(count: int) -> list[dict]:
    """Windows, no two of which have the same facts."""
    rows = []
    for i in range(count):
        start = datetime(2024, 1, 1, 7) + timedelta(hours=7 * i, minutes=20 * (i % 3))
        keys = [KEYS[(i // 7**k) % 7] for k in range(3)]
        row = {"window_id": f"w{i}", "home": "synthetic", "session": "s", "split": "train", "start": start}
        row |= {"end": start + timedelta(seconds=60 * (i % 9)), "sensor_keys": keys, "seconds": [0.0, 5.0, 9.0]}
        rows.append(row | {"activity": "Cook_Meal" if i % 2 else None, "activity_share": 0.5})
    return rows


def make_home(root: Path, count: int = 12) -> HomeFolder:
    folder = HomeFolder(root)
    folder.describe(home="synthetic", layout=load_layout("synthetic"))
    write_table(folder.windows, pa.Table.from_pylist(rows_of(count), schema=WINDOWS), WINDOWS)
    return folder


@pytest.fixture
def home(tmp_path) -> HomeFolder:
    return make_home(tmp_path / "home")


@pytest.fixture
def serve(request):
    def start(behave=None) -> ChatServer:
        server = ChatServer(behave)
        request.addfinalizer(server.server_close)
        request.addfinalizer(server.shutdown)
        return server

    return start


def settings(server: ChatServer, **how) -> LlmSettings:
    return LlmSettings(**{"model": "tiny", "base_url": server.url, "retries": 2, **how})


def captions_of(home: HomeFolder) -> list[tuple[str, str]]:
    table = read_table(home.captions("llm"), CAPTIONS)
    return list(zip(table["window_id"].to_pylist(), table["caption"].to_pylist(), strict=True))


def expected(home: HomeFolder, count: int) -> list[tuple[str, str]]:
    captions = []
    for chunk in facts_of(read_table(home.windows, WINDOWS), home.layout):
        for facts in chunk:
            prompt = messages(facts, count)[-1]["content"]
            captions += [(facts.window_id, text) for text in good_captions(prompt, count)]
    return captions


def test_each_window_gets_its_own_answer(home, serve):
    server = serve()
    summary = caption_home(home, "llm", captions=3, llm=settings(server))
    assert captions_of(home) == expected(home, 3)
    assert len(server.requests) == summary["requests"] == len(set(server.prompts)) == 12
    assert (summary["prompt_tokens"], summary["answer_tokens"]) == (1200, 240)
    assert {request["model"] for request in server.requests} == {"tiny"}
    assert not {"temperature", "max_tokens"} & set(server.requests[0])
    assert caption_home(home, "llm", captions=3, llm=settings(server)) is None


def test_windows_of_equal_facts_are_asked_once(tmp_path, serve):
    home, server = make_home(tmp_path / "home", 1), serve()
    twice = [row | {"window_id": f"w{i}"} for i in range(4) for row in rows_of(1)]
    write_table(home.windows, pa.Table.from_pylist(twice, schema=WINDOWS), WINDOWS)
    caption_home(home, "llm", llm=settings(server))
    assert len(server.requests) == 1
    assert len({caption for _, caption in captions_of(home)}) == 1


def test_a_busy_server_is_asked_again_after_the_time_it_names(home, serve):
    refused: dict[str, float] = {}
    waited: list[float] = []

    def behave(nth: int, prompt: str):
        if nth == 1:
            refused[prompt] = time.monotonic()
            return 429, {"Retry-After": "1"}, "slow down"
        if prompt in refused:
            waited.append(time.monotonic() - refused[prompt])
        return (500, {}, "broken") if nth == 2 else (200, {}, good_answer(prompt))

    server = serve(behave)
    summary = caption_home(home, "llm", captions=2, llm=settings(server))
    assert captions_of(home) == expected(home, 2)
    assert len(server.requests) == summary["requests"] == 14
    assert waited[0] >= 1.0


@pytest.mark.parametrize(
    "answer",
    ["Sure! Here are two.", '{"captions": ["only one caption here"]}', '{"captions": ["x", "y"]}', "[1, 2]", ""],
)
def test_a_malformed_answer_is_asked_again(home, serve, answer):
    server = serve(lambda nth, prompt: (200, {}, answer if nth <= 2 else good_answer(prompt)))
    caption_home(home, "llm", captions=2, llm=settings(server, concurrency=1))
    assert captions_of(home) == expected(home, 2)
    assert len(server.requests) == 14


def test_windows_without_a_usable_answer_are_listed_and_nothing_is_replaced(home, serve, capsys):
    caption_home(home, "llm", captions=2, llm=settings(serve()))
    before = home.captions("llm").read_bytes()
    prompts = [
        messages(f, 2)[-1]["content"] for c in facts_of(read_table(home.windows, WINDOWS), home.layout) for f in c
    ]
    bad = {prompts[3], prompts[8]}
    server = serve(lambda nth, prompt: (200, {}, "no" if prompt in bad else good_answer(prompt)))
    arguments = ["caption", str(home.root), "--caption-style", "llm", "--captions", "2", "--llm-base-url", server.url]
    assert cli.main([*arguments, "--llm-model", "other"]) == 2
    assert "2 of 12 windows got no usable answer" in capsys.readouterr().err
    assert set(json.loads((home.root / "captions" / "llm.cache.failed.json").read_text())) == {"w3", "w8"}
    assert home.captions("llm").read_bytes() == before
    assert len(server.requests) == 10 + 2 * 3
    bad.clear()
    assert cli.main([*arguments, "--llm-model", "other"]) == 0
    assert len(server.requests) == 10 + 2 * 3 + 2  # only the two are asked again
    assert captions_of(home) == expected(home, 2)
    assert not (home.root / "captions" / "llm.cache.failed.json").exists()


@pytest.mark.parametrize("status", [401, 404])
def test_an_endpoint_that_refuses_all_is_asked_no_more(tmp_path, serve, status):
    home, server = make_home(tmp_path / "home", 60), serve(lambda nth, prompt: (status, {}, "go away"))
    with pytest.raises(ValueError, match=f"{status}.*go away.*Check URL, model and key"):
        caption_home(home, "llm", llm=settings(server, concurrency=2))
    assert len(server.requests) <= 6
    assert not home.captions("llm").exists()


def test_a_server_that_is_down_ends_the_run_after_some_windows(tmp_path, serve):
    home = make_home(tmp_path / "home", 60)
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9.*20 windows failed in succession.*Connection"):
        caption_home(home, "llm", llm=LlmSettings(model="m", base_url="http://127.0.0.1:9/v1", retries=0))


def test_requests_go_out_side_by_side_but_no_more_than_asked_for(tmp_path, serve):
    home, server = make_home(tmp_path / "home", 40), serve(slowly)
    caption_home(home, "llm", llm=settings(server, concurrency=4))
    assert server.most_at_once == 4


def test_a_killed_run_repeats_no_finished_window(tmp_path, serve):
    home, straight = make_home(tmp_path / "home", 150), make_home(tmp_path / "straight", 150)
    caption_home(straight, "llm", captions=2, llm=settings(serve()))
    reached = threading.Event()

    def behave(nth: int, prompt: str):
        if nth == 40:
            reached.set()
        return slowly(nth, prompt)

    server = serve(behave)
    command = [
        sys.executable,
        "-m",
        "casita.cli",
        "caption",
        str(home.root),
        "--caption-style",
        "llm",
        "--captions",
        "2",
    ]
    command += ["--llm-base-url", server.url, "--llm-model", "tiny", "--llm-concurrency", "3"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        assert reached.wait(timeout=120)
        os.kill(process.pid, signal.SIGKILL)
    cache = home.root / "captions" / "llm.cache.jsonl"
    with cache.open("ab") as file:
        file.write(b'{"key": "half a li')  # as a kill in the middle of a write would leave it
    kept = len(cache.read_bytes().splitlines()) - 1
    assert kept >= 30
    first, server.requests[:] = server.prompts, []
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert len(server.requests) == 150 - kept
    assert len(set(server.prompts) & set(first)) <= 3  # those under way when it was killed
    assert home.captions("llm").read_bytes() == straight.captions("llm").read_bytes()


def test_a_cache_keeps_whole_lines_only(tmp_path):
    cache = AnswerCache(tmp_path / "c.jsonl")
    cache.add("a", ["eins, zwei, drei"])
    cache.add("b", ["größer als zuvor"])
    cache.close()
    content = (tmp_path / "c.jsonl").read_bytes()
    for cut in range(len(content) + 1):
        (tmp_path / "c.jsonl").write_bytes(content[:cut])
        again = AnswerCache(tmp_path / "c.jsonl")
        again.add("c", ["and one more"])
        again.close()
        lines = (tmp_path / "c.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["key"] for line in lines] == [*"ab"[: content[:cut].count(b"\n")], "c"]


def test_data_leaves_this_machine_only_with_leave(home):
    with pytest.raises(ValueError, match=r"routine of those who live there.*--llm-send-data"):
        caption_home(home, "llm", llm=LlmSettings(model="m", base_url="https://api.example.com/v1"))
    assert [is_loopback(f"http://{host}/v1") for host in ("localhost:1", "127.0.0.9", "[::1]:80")] == [True] * 3
    assert not any(
        is_loopback(f"http://{host}/v1") for host in ("localhost.example.com", "10.0.0.1", "[::2]", "0.0.0.0")
    )


def test_the_key_comes_from_the_environment_alone(home, serve, monkeypatch):
    server = serve()
    monkeypatch.setenv("CASITA_LLM_API_KEY", "secret-of-mine")
    monkeypatch.setenv("CASITA_LLM_MODEL", "by-environment")
    monkeypatch.setenv("CASITA_LLM_BASE_URL", server.url)
    assert cli.main(["caption", str(home.root), "--caption-style", "llm"]) == 0
    assert set(server.keys) == {"Bearer secret-of-mine"}
    assert {request["model"] for request in server.requests} == {"by-environment"}
    assert not [path for path in home.root.rglob("*") if path.is_file() and b"secret-of-mine" in path.read_bytes()]


def test_what_is_missing_is_named(home, monkeypatch):
    for name in ("MODEL", "BASE_URL", "API_KEY"):
        monkeypatch.delenv(f"CASITA_LLM_{name}", raising=False)
    with pytest.raises(ValueError, match="--llm-model NAME, or CASITA_LLM_MODEL"):
        llm_settings_from()
    with pytest.raises(ValueError, match="the endpoint is None"):
        caption_home(home, "llm", llm=LlmSettings(model="m"))
    with pytest.raises(ValueError, match="'gemini': there are openai, transformers"):
        LlmSettings(model="m", backend="gemini")


# The prompt


def test_the_prompt_is_a_function_of_five_columns(home):
    """Everything else may change: home, session, split, label and the window's very name."""
    windows = read_table(home.windows, WINDOWS)
    changed = windows
    for name in set(WINDOWS.names) - set(COLUMNS):
        constant = pa.array([9.0] * 12, pa.float32()) if name == "activity_share" else pa.array(["Zebra_Dance"] * 12)
        changed = changed.set_column(changed.schema.get_field_index(name), name, constant)
    changed = changed.set_column(0, "window_id", pa.array([f"Zebra{i}" for i in range(12)]))
    prompts = [[messages(f, 2) for c in facts_of(t, home.layout) for f in c] for t in (windows, changed)]
    assert prompts[0] == prompts[1]
    assert "zebra" not in json.dumps(prompts[1]).lower()
    assert set(COLUMNS) == {"window_id", "start", "end", "sensor_keys", "seconds"}
    assert not {"label", "activity", "split", "home"} & {field.name for field in fields(Facts)}


@pytest.mark.parametrize("name", ["kasteren_a", "ordonez_a"])
def test_no_prompt_of_a_real_home_holds_a_label(real_homes, name):
    layout = load_layout(name)
    events, _ = read_events([real_homes / name], name)
    windows, _ = build_windows(events, layout, WindowSettings(unplaced="drop", max_gap_min=None))
    labels = {label for label in windows["activity"].to_pylist() if label}
    assert len(labels) >= 6
    sensors = " ".join(f"{s['room']} {s.get('description', '')} {s['type']}" for s in layout["sensors"].values())
    layout_words = set(re.findall(r"[a-z]+", sensors.lower()))  # a label's word may be a room's or a thing's: "toilet"
    sought = {word for label in labels for word in label_words(label)} - layout_words
    assert sought
    fixed = llm_prompt.SYSTEM + llm_prompt.SEVERAL + llm_prompt.ONE
    prompts = [messages(facts, 4) for chunk in facts_of(windows, layout) for facts in chunk]
    seen = set(re.findall(r"[a-z]+", json.dumps(prompts).lower()))
    assert not sought & seen, sought & seen
    assert not [label for label in labels if label.lower() in fixed.lower()]


@pytest.mark.parametrize(
    "text, captions",
    [
        ('```json\n{"captions": ["one  two\\nthree", "four five six"]}\n```', ["one two three", "four five six"]),
        ('["one two three", "four five six", "seven eight nine"]', ["one two three", "four five six"]),
    ],
)
def test_answers_in_json_are_read(text, captions):
    assert read_answer(text, 2) == captions


@pytest.mark.parametrize(
    "text", ['["one two three", "one  two three"]', '{"captions": ["one two three", null]}', None]
)
def test_answers_that_are_no_captions_are_refused(text):
    with pytest.raises(ValueError, match=r"captions|JSON"):
        read_answer(text, 2)


def test_a_plain_answer_is_cut_behind_its_last_sentence():
    assert (
        read_line('\n - "Somebody went out. The door was closed. And th') == "Somebody went out. The door was closed."
    )
    assert read_line("no full stop at all\nsecond line") == "no full stop at all"
    with pytest.raises(ValueError, match="a caption of 0 words"):
        read_line("\n ... \n")


# A model in this process

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def make_language_model(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = make_tokenizer(["<unk>", "<s>", "</s>"], "<s> $A", **names)
    size = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.02}
    if kind == "llama":
        tokenizer.chat_template = TEMPLATE
        layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
        config = LlamaConfig(hidden_size=32, intermediate_size=64, max_position_embeddings=4096, **layers, **size)
        LlamaForCausalLM(config).save_pretrained(folder)
    else:
        GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=4096, **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def local(folder: Path, **how) -> LlmSettings:
    return LlmSettings(model=str(folder), backend="transformers", batch_size=4, max_tokens=24, attempts=20, **how)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_local_model_captions_every_window(tmp_path, home, kind):
    llm = local(make_language_model(tmp_path / kind, kind))
    summary = caption_home(home, "llm", captions=2, llm=llm)
    captions = captions_of(home)
    assert [window for window, _ in captions] == [f"w{i // 2}" for i in range(24)]
    assert len({caption for _, caption in captions}) == 24  # each is a draw of its own
    assert all(len(caption.split()) >= 3 for _, caption in captions)
    assert summary["answer_tokens"] > 24


def test_an_interrupted_local_run_ends_as_an_undisturbed_one(tmp_path):
    folder = make_language_model(tmp_path / "gpt2", "gpt2")
    homes = [make_home(tmp_path / name, 10) for name in ("straight", "broken")]
    for home in homes:
        caption_home(home, "llm", captions=2, llm=local(folder))
    assert captions_of(homes[0]) == captions_of(homes[1])
    cache = homes[1].root / "captions" / "llm.cache.jsonl"
    lines = cache.read_bytes().splitlines(keepends=True)
    cache.write_bytes(b"".join(lines[:6]) + lines[6][:20])
    homes[1].captions("llm").unlink()
    caption_home(homes[1], "llm", captions=2, llm=local(folder))
    assert captions_of(homes[0]) == captions_of(homes[1])
    caption_home(homes[1], "llm", captions=2, llm=local(folder, seed=1))
    assert not set(captions_of(homes[0])) & set(captions_of(homes[1]))


def test_a_model_that_cannot_be_loaded_is_one_line(home, tmp_path):
    with pytest.raises(ValueError, match="could not be loaded") as error:
        caption_home(home, "llm", llm=LlmSettings(model=str(tmp_path / "none"), backend="transformers"))
    assert "\n" not in str(error.value)
    assert "key" not in inspect.signature(LlmSettings).parameters  # a key would land in home.json
