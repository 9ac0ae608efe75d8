"""Each architecture of text model gives the vector that its authors meant: compared with a slow, open computation."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from tiny_text_models import LENGTH, MAKERS, STS, make_text_model
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from casita import cli
from casita.datasets_scripts.captions.text_embeddings import (
    count_truncated,
    describe_text_model,
    embed_captions,
    embed_texts,
    load_text_model,
)
from casita.datasets_scripts.schema import CAPTIONS, HomeFolder, read_metadata, write_table
from casita.modeling.pipeline_casita import load_text_model as load_for_pipeline
from casita.modeling.pipeline_casita import read_as_trained

LONG = "somebody went from the kitchen to the hallway and back , then to the office . " * 12
TEXTS = ["The fridge was opened.", "Somebody went to the office.", "a", LONG]
LIMITS = {"bert": LENGTH, "roberta": LENGTH - 2, "gemma": LENGTH, "clip": 77, "siglip": 64, "siglip2": 64}


@pytest.fixture(scope="module", params=MAKERS)
def checkpoint(request, tmp_path_factory) -> Path:
    return make_text_model(request.param, tmp_path_factory.mktemp("models"))


@torch.no_grad()
def by_hand(folder: Path, text: str) -> np.ndarray:
    """One text by itself, through the bare model."""
    kind, model, tokenizer = (
        folder.name,
        AutoModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    padded = kind.startswith("siglip")
    prompted = STS + text if kind == "gemma" else text
    ids = tokenizer(
        prompted,
        truncation=True,
        max_length=LIMITS[kind],
        padding="max_length" if padded else False,
        return_tensors="pt",
    )["input_ids"]
    if padded or kind == "clip":
        assert ids.shape[1] == 64 if padded else ids.shape[1] <= 77
        vector = model.get_text_features(input_ids=ids).pooler_output[0]
    else:
        vector = model(input_ids=ids).last_hidden_state[0].mean(dim=0)
        for head in sorted(folder.glob("*_Dense")):
            vector = load_file(head / "model.safetensors")["linear.weight"] @ vector
    return normalize(vector, dim=-1).numpy()


def test_the_vectors_are_those_of_a_slow_computation(checkpoint):
    model = load_text_model(str(checkpoint))
    expected = np.stack([by_hand(checkpoint, text) for text in TEXTS])
    assert np.abs(expected[0] - expected[1]).max() > 1e-3  # the checkpoint distinguishes texts
    for batch_size in (1, 64):
        vectors = embed_texts(model, TEXTS, batch_size=batch_size, progress=False)
        np.testing.assert_allclose(vectors, expected, atol=2e-6)  # float32 sums in another order


def test_where_casita_is_not_installed_the_vectors_are_the_same(checkpoint):
    ours = load_text_model(str(checkpoint))
    theirs = load_for_pipeline(checkpoint, "cpu")
    read_as_trained(theirs)
    name = describe_text_model(ours, str(checkpoint))["prompt_name"]  # the processor carries it
    vectors = theirs.encode(TEXTS, prompt_name=name, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(vectors, embed_texts(ours, TEXTS, progress=False), atol=2e-6)  # another batching


def test_a_model_is_described_by_what_makes_its_vectors(checkpoint):
    kind = checkpoint.name
    description = describe_text_model(load_text_model(str(checkpoint)), str(checkpoint))
    assert description["pooling"] == ("get_text_features" if kind in ("clip", "siglip", "siglip2") else "mean")
    assert description["prompt"] == (STS if kind == "gemma" else "")
    assert description["padding"] == ("max_length" if kind.startswith("siglip") else "longest")
    assert (description["max_tokens"], description["width"]) == (LIMITS[kind], 24 if kind == "clip" else 32)


def test_texts_that_are_cut_are_counted(checkpoint):
    model, tokenizer = load_text_model(str(checkpoint)), AutoTokenizer.from_pretrained(checkpoint)
    prompt, limit = STS if checkpoint.name == "gemma" else "", LIMITS[checkpoint.name]
    texts = [" ".join(["office"] * n) for n in range(1, 120)]
    lengths = [len(tokenizer(prompt + text)["input_ids"]) for text in texts]
    assert min(lengths) < limit < max(lengths)
    assert count_truncated(model, texts, chunk=7) == sum(length > limit for length in lengths)


def test_siglip_padded_to_the_batch_would_be_wrong(tmp_path):
    folder = make_text_model("siglip", tmp_path)
    plain = SentenceTransformer(str(folder), device="cpu").encode(TEXTS[0], normalize_embeddings=True)
    assert np.abs(plain - by_hand(folder, TEXTS[0])).max() > 1e-3


@pytest.fixture
def home(tmp_path) -> HomeFolder:
    folder = HomeFolder(tmp_path / "home")
    folder.describe(home="toy")
    texts = [f"the fridge was opened {n} times ." for n in range(400)] + [LONG]
    ids = [f"w{i}" for i in range(len(texts))]
    rows = {"window_id": ids, "style": ["narrative"] * len(texts), "number": [0] * len(texts), "caption": texts}
    write_table(folder.captions("narrative"), pa.table(rows), CAPTIONS)
    return folder


KILLED = """
import os, signal, sys
from casita.datasets_scripts.schema import HomeFolder
from casita.datasets_scripts.captions.text_embeddings import embed_captions, load_text_model
model, batches = load_text_model(sys.argv[2]), []
def die_in_batch_70(module, inputs):
    batches.append(inputs)
    if len(batches) == 70:
        os.kill(os.getpid(), signal.SIGKILL)
model[0].register_forward_pre_hook(die_in_batch_70)
embed_captions(HomeFolder(sys.argv[1]), "narrative", sys.argv[2], batch_size=2, load=lambda: model)
"""


def test_a_killed_run_goes_on_where_it_was_with_the_same_bits(home, tmp_path):
    folder = make_text_model("bert", tmp_path)
    path = home.text_embeddings("narrative", str(folder))
    embed_captions(home, "narrative", str(folder), batch_size=2)
    expected = path.read_bytes()
    path.unlink()
    command = [sys.executable, "-c", KILLED, str(home.root), str(folder)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    parts = path.with_suffix(".parts")
    finished = list(parts.glob("0*.npy"))
    assert len(finished) == 69 // 16
    assert not path.exists()
    rows: list[int] = []
    model = load_text_model(str(folder))
    model[0].register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0]["input_ids"])))
    summary = embed_captions(home, "narrative", str(folder), batch_size=2, load=lambda: model)
    assert sum(rows) == 401 - 32 * len(finished)  # what was finished is not done again
    assert path.read_bytes() == expected
    assert (summary["texts"], summary["truncated"]) == (401, 1)
    assert not parts.exists()


def test_parts_of_other_captions_are_not_used(home, tmp_path):
    folder = str(make_text_model("bert", tmp_path))
    parts = home.text_embeddings("narrative", folder).with_suffix(".parts")
    parts.mkdir(parents=True)
    (parts / "key.json").write_text('"of another run"')
    np.save(parts / "000000.npy", np.zeros((401, 32), dtype=np.float32))
    embed_captions(home, "narrative", folder)
    model = load_text_model(folder)
    table = pa.parquet.read_table(home.text_embeddings("narrative", folder))
    first = np.asarray(table["embedding"][0].as_py(), dtype=np.float32)
    np.testing.assert_allclose(
        first, embed_texts(model, ["the fridge was opened 0 times ."], progress=False)[0], atol=2e-6
    )


def test_a_data_set_of_homes_is_embedded_home_by_home(home, tmp_path, capsys):
    other = HomeFolder(home.root.parent / "other")
    other.describe(home="other")
    rows = {"window_id": ["w"], "style": ["narrative"], "number": [0], "caption": ["the fridge was closed ."]}
    write_table(other.captions("narrative"), pa.table(rows), CAPTIONS)
    folder = make_text_model("gemma", tmp_path)
    assert cli.main(["embed-text", str(home.root.parent), "--text-model", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "401 captions, 401 different ones, 32 wide, pooling mean; 1 are longer than 96 tokens" in out
    assert read_metadata(other.text_embeddings("narrative", str(folder)))["prompt_name"] == "STS"
    assert read_metadata(home.text_embeddings("narrative", str(folder)))["prompt"] == STS
