"""Text embeddings: the model's own pooling and prompt, each text once, and the real MiniLM from the pip package."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from huggingface_hub import constants
from sentence_model import WIDTH, make_model
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from casita import cli
from casita.datasets_scripts.captions import text_embeddings
from casita.datasets_scripts.captions.text_embeddings import (
    describe_text_model,
    embed_captions,
    embed_texts,
    load_text_model,
    minilm_directory,
)
from casita.datasets_scripts.schema import (
    CAPTIONS,
    HomeFolder,
    read_metadata,
    read_table,
    text_embeddings_schema,
    write_table,
)

TEXTS = ["the fridge was opened .", "the stove", "the fridge was opened .", "closed"]


def by_hand(directory: Path | str, texts: list[str], pooling: str) -> np.ndarray:
    """The slow obvious way: one text at a time, no padding, pooled and normalised in the open."""
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()
    rows = []
    for text in texts:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        vector = hidden[0] if pooling == "cls_token" else hidden.mean(dim=0)
        rows.append((vector / vector.norm()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("pooling", ["cls_token", "mean_tokens"])
def test_the_models_own_pooling_is_used(tmp_path, pooling):
    directory = make_model(tmp_path / "bert", pooling)
    vectors = embed_texts(load_text_model(directory), TEXTS, progress=False)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, by_hand(directory, TEXTS, pooling), atol=1e-5)  # float32 sums in another order


def test_cls_and_mean_pooling_differ_in_vectors_and_name(tmp_path):
    results = {}
    for pooling in ("cls_token", "mean_tokens"):
        directory = make_model(tmp_path / pooling, pooling)
        model = load_text_model(directory)
        results[pooling] = embed_texts(model, TEXTS, progress=False), describe_text_model(model, directory)["pooling"]
    assert np.abs(results["cls_token"][0] - results["mean_tokens"][0]).max() > 0.05
    assert [pooling for _, pooling in results.values()] == ["cls", "mean"]


def test_the_models_own_prompt_goes_in_front(tmp_path):
    directory = make_model(tmp_path / "bert", "mean_tokens", prompt="home log : ")
    model = load_text_model(directory)
    vectors = embed_texts(model, TEXTS, progress=False)
    np.testing.assert_allclose(
        vectors, by_hand(directory, [f"home log : {text}" for text in TEXTS], "mean_tokens"), atol=1e-5
    )
    assert describe_text_model(model, directory)["prompt"] == "home log : "


def test_batch_size_and_company_do_not_change_a_vector(tmp_path):
    model = load_text_model(make_model(tmp_path / "bert", "mean_tokens"))
    alone = [embed_texts(model, [text], progress=False)[0] for text in TEXTS]
    for batch_size in (1, 3, 64):
        np.testing.assert_allclose(embed_texts(model, TEXTS, batch_size=batch_size, progress=False), alone, atol=1e-5)


def test_equal_texts_are_embedded_once(tmp_path):
    model = load_text_model(make_model(tmp_path / "bert", "mean_tokens"))
    rows: list[int] = []
    model[0].register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0]["input_ids"])))
    vectors = embed_texts(model, TEXTS * 5, progress=False)
    assert sum(rows) == len(set(TEXTS))
    assert np.array_equal(vectors[: len(TEXTS)], vectors[-len(TEXTS) :])


def test_no_texts_give_no_rows(tmp_path):
    model = load_text_model(make_model(tmp_path / "bert", "mean_tokens"))
    assert embed_texts(model, [], progress=False).shape == (0, WIDTH)


@pytest.fixture(scope="module")
def minilm():
    return load_text_model("minilm")


def test_minilm_equals_the_slow_obvious_computation(minilm):
    texts = ["The fridge was opened on Tuesday morning.", "Somebody is asleep.", "Cooking dinner"]
    np.testing.assert_allclose(
        embed_texts(minilm, texts, progress=False), by_hand(minilm_directory(), texts, "mean_tokens"), atol=1e-5
    )


def test_minilm_puts_like_sentences_side_by_side(minilm):
    sentences = ["Somebody is cooking dinner.", "A person is asleep.", "Leaving the house."]
    nearest = [
        "Preparing a meal on the stove.",
        "Resting in bed at night.",
        "The resident left through the front door.",
    ]
    likeness = embed_texts(minilm, sentences, progress=False) @ embed_texts(minilm, nearest, progress=False).T
    assert likeness.argmax(axis=1).tolist() == [0, 1, 2]


def test_minilm_is_the_packaged_one_under_its_hub_id_too(minilm):
    again = load_text_model("sentence-transformers/all-MiniLM-L6-v2")
    texts = ["the same weights"]
    assert np.array_equal(embed_texts(again, texts, progress=False), embed_texts(minilm, texts, progress=False))
    description = describe_text_model(again, "minilm")
    assert (description["text_model"], description["pooling"], description["width"]) == (
        "sentence-transformers/all-MiniLM-L6-v2",
        "mean",
        384,
    )


def test_other_minilm_weights_are_refused(monkeypatch):
    monkeypatch.setattr(text_embeddings, "MINILM_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"expected SHA-256 0+, found 53aa51172d14"):
        minilm_directory()


@pytest.mark.parametrize("name", ["gte-base", "nobody/no-such-model", "/no/such/directory"])
def test_a_model_out_of_reach_is_one_clear_line(name):
    with pytest.raises(ValueError, match=rf"text model '{name}' could not be loaded .*minilm") as caught:
        load_text_model(name)
    assert "\n" not in str(caught.value)


def test_without_a_network_the_answer_comes_at_once(monkeypatch, tmp_path):
    """Not in offline mode, only unreachable: the libraries alone would retry for more than a minute."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    begun = time.monotonic()
    with pytest.raises(ValueError, match=r"could not be loaded from 'nobody/no-such-model' \(ConnectError"):
        load_text_model("nobody/no-such-model")
    assert time.monotonic() - begun < 15


@pytest.fixture
def home(tmp_path) -> HomeFolder:
    folder = HomeFolder(tmp_path / "home")
    folder.describe(home="toy")
    rows = {"window_id": [f"w{i}" for i in range(4)], "style": ["narrative"] * 4, "number": [0] * 4, "caption": TEXTS}
    write_table(folder.captions("narrative"), pa.table(rows), CAPTIONS)
    return folder


def test_captions_become_a_described_parquet_file_once(home, tmp_path):
    directory = make_model(tmp_path / "bert", "cls_token", prompt="log : ")
    summary = embed_captions(home, "narrative", directory)
    assert (summary["texts"], summary["unique"]) == (4, 3)
    path = home.text_embeddings("narrative", directory)
    table = read_table(path, text_embeddings_schema(WIDTH))
    vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(4, WIDTH)
    np.testing.assert_allclose(
        vectors, by_hand(directory, [f"log : {text}" for text in TEXTS], "cls_token"), atol=1e-5
    )
    assert table["window_id"].to_pylist() == ["w0", "w1", "w2", "w3"]
    metadata = read_metadata(path)
    assert metadata["text_model"] == directory
    assert (metadata["pooling"], metadata["prompt"], metadata["normalized"], metadata["width"]) == (
        "cls",
        "log : ",
        True,
        WIDTH,
    )
    assert embed_captions(home, "narrative", directory) is None


def test_new_weights_in_a_model_directory_are_noticed(home, tmp_path):
    directory = tmp_path / "bert"
    make_model(directory, "mean_tokens")
    embed_captions(home, "narrative", str(directory))
    torch.manual_seed(1)
    BertModel(BertConfig.from_pretrained(directory)).save_pretrained(directory)
    assert embed_captions(home, "narrative", str(directory)) is not None


def test_the_command_runs_offline_with_minilm(home, capsys):
    assert cli.main(["embed-text", str(home.root), "--text-model", "minilm"]) == 0
    assert "4 captions, 3 different ones, 384 wide, pooling mean" in capsys.readouterr().out
    assert cli.main(["embed-text", str(home.root), "--text-model", "minilm"]) == 0
    assert "up to date" in capsys.readouterr().out


def test_bfloat16_turns_the_vectors_a_little_and_is_recorded(home):
    command = ["embed-text", str(home.root), "--text-model", "minilm"]
    assert cli.main(command) == 0
    path = home.text_embeddings("narrative", "minilm")
    exact = np.stack(read_table(path, text_embeddings_schema(384))["embedding"].to_numpy())
    assert cli.main([*command, "--dtype", "bfloat16"]) == 0
    half = np.stack(read_table(path, text_embeddings_schema(384))["embedding"].to_numpy())
    assert half.dtype == np.float32
    assert 0.99 < (exact * half).sum(axis=1).min() < 0.99999  # 8 bits of mantissa: under a degree or so
    assert read_metadata(path)["dtype"] == "bfloat16"
    with pytest.raises(ValueError, match="dtype='int8' is unknown; known: float32, bfloat16"):
        load_text_model("minilm", dtype="int8")


def test_without_captions_the_command_names_the_stage_before(home, capsys):
    assert cli.main(["embed-text", str(home.root), "--caption-style", "structured", "--text-model", "minilm"]) == 2
    assert "casita caption --caption-style structured" in capsys.readouterr().err
