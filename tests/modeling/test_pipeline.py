"""The pipelines: a row a window, the numbers of model and processor, also where casita is not installed."""

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny_text_models import make_text_model
from toy_model import PROMPTS, make_events, make_pair, publish_toy
from transformers import pipeline

from casita.datasets_scripts.captions.text_embeddings import embed_texts, load_text_model
from casita.modeling.modeling_casita import CasitaModel, CasitaSensorModel
from casita.modeling.pipeline_casita import SensorEmbeddingPipeline, ZeroShotActivityPipeline

SENTENCES = ["somebody is cooking", "somebody is asleep", "the home is empty"]
# float32 sums in another order: padding, batch size, one process or another
TOLERANCE = {"rtol": 0, "atol": 1e-5}
CONSUMER = """
import json, sys
sys.modules["casita"] = None
from transformers import pipeline
events, sentences = json.loads(sys.argv[2])
results = []
for directory in (sys.argv[1], sys.argv[3]):
    embed = pipeline("sensor-embedding", model=directory, trust_remote_code=True, device="cpu")
    ask = pipeline("zero-shot-activity", model=directory, trust_remote_code=True, device="cpu")
    stream = embed.open_stream()
    first = next(row for row in map(stream.push, events) if row)
    results.append({
        "vectors": [row["vector"].tolist() for row in embed(events)],
        "starts": [row["start"].isoformat() for row in embed(events)],
        "asked": [dict(zip(row["labels"], row["scores"])) for row in ask(events, sentences)],
        "streamed": first["vector"].tolist(),
        "module": type(embed).__module__,
    })
    ask.save_pretrained(sys.argv[3])
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def text_model():
    return load_text_model("minilm")


@pytest.fixture(scope="module")
def pair():
    return make_pair()


@pytest.fixture
def embed(pair):
    return SensorEmbeddingPipeline(model=pair[0], processor=pair[1], device="cpu")


@pytest.fixture
def ask(pair, text_model):
    return ZeroShotActivityPipeline(model=pair[0], processor=pair[1], text_model=text_model, device="cpu")


@torch.no_grad()
def slow_rows(model, processor, events):
    """One window at a time."""
    rows = []
    for first, last in processor(events, return_windows=True)["windows"]:
        vector = model(**processor([events[first:last]], return_tensors="pt")).sensor_embeds[0]
        rows.append((events[first][0], events[last - 1][0], last - first, vector.numpy()))
    return rows


def by_hand(model, text_model, vectors, prompts, temperature=1.0):
    """Scores `(B, K)` from the frozen sentence embeddings on."""
    directions = []
    with torch.no_grad():
        for texts in prompts:
            rows = model.get_text_features(torch.from_numpy(embed_texts(text_model, texts, progress=False)))
            mean = torch.nn.functional.normalize(rows.pooler_output, dim=-1).mean(dim=0)
            directions.append((mean / mean.norm()).numpy())
        scale = model.logit_scale.exp().item()
    return torch.tensor(scale * vectors @ np.stack(directions).T / temperature).softmax(-1).numpy()


def score_columns(rows, labels):
    """`(B, K)` scores in the order of `labels`."""
    return np.array(
        [[dict(zip(row["labels"], row["scores"], strict=True))[label] for label in labels] for row in rows]
    )


def test_a_stream_gives_a_row_a_window(pair, embed):
    events = make_events()
    rows, expected = embed(events), slow_rows(*pair, events)
    assert len(rows) == len(expected) > 5
    for row, (start, end, size, vector) in zip(rows, expected, strict=True):
        assert (row["start"].isoformat(" "), row["end"].isoformat(" "), row["events"]) == (start, end, size)
        np.testing.assert_allclose(row["vector"], vector, **TOLERANCE)


def test_every_form_of_events_gives_the_same_rows(embed):
    events = make_events()
    names = ["timestamp", "sensor", "state"]
    table = pd.DataFrame(events, columns=names).astype({"timestamp": "datetime64[us]"})
    dicts = [dict(zip(names, event, strict=True)) for event in events]
    expected = embed(events)
    for same in (dicts, table, pa.Table.from_pandas(table)):
        for row, other in zip(embed(same), expected, strict=True):
            assert (row["start"], row["end"]) == (other["start"], other["end"])
            assert np.array_equal(row["vector"], other["vector"])


def test_many_windows_keep_their_order(pair, embed):
    events = make_events()
    windows = [events[:3], events[4:24], events[24:25], events[25:29]]  # encoded by length
    rows = embed(windows, batch_size=2)
    assert [row["events"] for row in rows] == [3, 20, 1, 4]
    for window, row in zip(windows, rows, strict=True):
        with torch.no_grad():
            vector = pair[0](**pair[1]([window], return_tensors="pt")).sensor_embeds[0]
        np.testing.assert_allclose(row["vector"], vector.numpy(), **TOLERANCE)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_does_not_matter(pair, embed, batch_size):
    events = make_events()
    stored = SensorEmbeddingPipeline(model=pair[0], processor=pair[1], device="cpu", batch_size=batch_size)
    expected = np.stack([row["vector"] for row in embed(events)])
    for rows in (embed(events, batch_size=batch_size), stored(events)):
        np.testing.assert_allclose(np.stack([row["vector"] for row in rows]), expected, **TOLERANCE)


def test_scores_are_the_softmax_of_scaled_cosines_over_the_temperature(pair, embed, ask, text_model):
    model, events = pair[0], make_events()
    vectors = np.stack([row["vector"] for row in embed(events)])
    try:
        for temperature in (1.0, 4.0):
            model.config.zero_shot_temperature = temperature
            rows = ask(events, candidate_labels=SENTENCES)
            expected = by_hand(model, text_model, vectors, [[text] for text in SENTENCES], temperature)
            np.testing.assert_allclose(score_columns(rows, SENTENCES), expected, **TOLERANCE)
    finally:
        model.config.zero_shot_temperature = 1.0
    assert np.ptp(expected, axis=1).min() > 0.01  # the candidates have different scores


def test_the_best_candidate_comes_first_and_scores_sum_to_one(ask):
    for row in ask(make_events(), SENTENCES):
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert sorted(row["labels"]) == sorted(SENTENCES)
        assert sum(row["scores"]) == pytest.approx(1, abs=1e-6)


def test_without_candidates_the_processors_labels_count_by_the_mean_of_their_prompts(pair, embed, ask, text_model):
    events = make_events()
    vectors = np.stack([row["vector"] for row in embed(events)])
    expected = by_hand(pair[0], text_model, vectors, PROMPTS.values())
    for rows in (ask(events), ask(events, candidate_labels=PROMPTS)):
        np.testing.assert_allclose(score_columns(rows, PROMPTS), expected, **TOLERANCE)


def test_other_candidates_in_the_next_call_are_embedded_anew(pair, ask, text_model):
    events = make_events()
    ask(events, SENTENCES)
    fresh = ZeroShotActivityPipeline(model=pair[0], processor=pair[1], text_model=text_model, device="cpu")
    assert ask(events, SENTENCES[:2])[0] == fresh(events, SENTENCES[:2])[0]


def test_the_text_model_comes_from_the_processors_record(pair, ask):
    from_record = ZeroShotActivityPipeline(model=pair[0], processor=pair[1], device="cpu")
    assert from_record(make_events(), SENTENCES) == ask(make_events(), SENTENCES)


def test_the_prompt_that_the_processor_names_stands_before_each_sentence(pair, text_model):
    processor = make_pair(text_prompt_name="sts")[1]
    text_model.prompts["sts"] = "task: sentence similarity | query: "
    try:
        prompted = ZeroShotActivityPipeline(model=pair[0], processor=processor, text_model=text_model, device="cpu")
        spelled = ZeroShotActivityPipeline(model=pair[0], processor=pair[1], text_model=text_model, device="cpu")
        events, texts = make_events(), [f"{text_model.prompts['sts']}{text}" for text in SENTENCES]
        scores = score_columns(prompted(events, SENTENCES), SENTENCES)
        np.testing.assert_allclose(scores, score_columns(spelled(events, texts), texts), **TOLERANCE)
        assert np.abs(scores - score_columns(spelled(events, SENTENCES), SENTENCES)).max() > 1e-3
    finally:
        del text_model.prompts["sts"]


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([], "no candidates"),
        ("somebody is cooking", "one sentence; expected a list"),
        ({"Cook": []}, "candidate 'Cook' has no sentence"),
    ],
)
def test_candidates_that_cannot_be_scored_are_refused(ask, candidates, message):
    with pytest.raises(ValueError, match=message):
        ask(make_events(), candidates)


def test_a_text_model_that_cannot_be_loaded_is_named_in_one_line(pair, tmp_path):
    model, processor = pair
    missing = ZeroShotActivityPipeline(model=model, processor=processor, text_model=tmp_path, device="cpu")
    with pytest.raises(ValueError, match="could not be loaded") as error:
        missing(make_events(), SENTENCES)
    assert "\n" not in str(error.value)
    nameless = ZeroShotActivityPipeline(model=model, processor=make_pair(text_model=None)[1], device="cpu")
    with pytest.raises(ValueError, match="names no text model"):
        nameless(make_events(), SENTENCES)


def test_a_text_model_of_another_width_is_refused(pair, text_model):
    config = copy.deepcopy(pair[0].config)
    config.text_embedding_dim = 12
    other = ZeroShotActivityPipeline(
        model=CasitaModel(config).eval(), processor=pair[1], text_model=text_model, device="cpu"
    )
    with pytest.raises(ValueError, match=r"width 384, the model was aligned with width 12\. Use the text model"):
        other(make_events(), SENTENCES)


@pytest.mark.parametrize(("kind", "width"), [("clip", 24), ("siglip", 32)])
@pytest.mark.parametrize("loaded", [False, True])
def test_clip_and_siglip_read_sentences_as_they_were_read_for_training(pair, tmp_path, kind, width, loaded):
    """Also where the caller hands over the loaded model: sentence-transformers alone would pad SigLIP otherwise."""
    folder = make_text_model(kind, tmp_path)
    config = copy.deepcopy(pair[0].config)
    config.text_embedding_dim = width
    torch.manual_seed(1)
    model, processor = CasitaModel(config).eval(), make_pair(text_model=str(folder))[1]
    given = {"text_model": SentenceTransformer(str(folder), device="cpu")} if loaded else {}
    ask = ZeroShotActivityPipeline(model=model, processor=processor, device="cpu", **given)
    answers = ask(make_events(), SENTENCES)
    vectors = [row["vector"] for row in SensorEmbeddingPipeline(model=model, processor=processor)(make_events())]
    expected = by_hand(model, load_text_model(str(folder)), np.stack(vectors), [[text] for text in SENTENCES])
    np.testing.assert_allclose(score_columns(answers, SENTENCES), expected, **TOLERANCE)


def test_what_a_pipeline_cannot_serve_is_refused(pair, embed):
    model, processor = pair
    with pytest.raises(ValueError, match="needs a CasitaModel and its CasitaProcessor, found CasitaSensorModel"):
        SensorEmbeddingPipeline(model=CasitaSensorModel(model.config), processor=processor, device="cpu")
    with pytest.raises(ValueError, match="sensor 'X' is unknown"):
        embed([("2024-05-01", "X", "ON")])
    with pytest.raises(ValueError, match="no events left"):
        embed([("2024-05-01", "X", "ON")], unknown="skip")
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        embed(make_events(), batch_size=0)
    with pytest.raises(ValueError, match="training mode"):
        SensorEmbeddingPipeline(model=make_pair()[0].train(), processor=processor, device="cpu")(make_events())


def test_a_process_without_casita_gets_the_same_rows_and_saves_a_whole_directory(tmp_path, text_model):
    directory, model, processor = publish_toy(tmp_path)
    events = make_events()
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-c", CONSUMER, str(directory), json.dumps([events, SENTENCES])]
    done = subprocess.run(
        [*command, str(tmp_path / "copy")], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = SensorEmbeddingPipeline(model=model, processor=processor, device="cpu")(events)
    vectors = np.stack([row["vector"] for row in expected])
    scores = by_hand(model, text_model, vectors, [[text] for text in SENTENCES])
    for result in json.loads(done.stdout.splitlines()[-1]):  # of the published directory, then of the consumer's copy
        assert result["module"].startswith("transformers_modules.")
        assert result["starts"] == [row["start"].isoformat() for row in expected]
        np.testing.assert_allclose(result["vectors"], vectors, **TOLERANCE)
        np.testing.assert_allclose(result["streamed"], vectors[0], **TOLERANCE)
        np.testing.assert_allclose([[row[text] for text in SENTENCES] for row in result["asked"]], scores, **TOLERANCE)


def test_here_too_the_task_is_found_by_its_name_and_the_config_stays_what_was_saved(tmp_path):
    directory, *_ = publish_toy(tmp_path)
    pipe = pipeline("sensor-embedding", model=str(directory), trust_remote_code=True, device="cpu")
    assert np.linalg.norm(pipe(make_events())[0]["vector"]) == pytest.approx(1, abs=1e-5)
    saved = json.loads((directory / "config.json").read_text())["custom_pipelines"]
    assert set(saved) == {"sensor-embedding", "zero-shot-activity"}
    assert json.loads(pipe.model.config.to_json_string())["custom_pipelines"] == saved


def test_a_pipeline_whose_code_would_stay_behind_is_not_saved(tmp_path, pair):
    class Unmarked(type(pair[0])):
        _auto_class = None

    stranger = Unmarked(pair[0].config).eval()
    with pytest.raises(ValueError, match="not marked to travel"):
        SensorEmbeddingPipeline(model=stranger, processor=pair[1], device="cpu").save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
