"""Homes are data: a checkpoint of one home reads another's events after one call, or holds many homes at once.

Milan and Aruba are the shipped layouts of the real homes, drawn at 32 pixels and averaged by `pixels`.
"""

import copy
import json
from datetime import datetime, timedelta

import numpy as np
import pytest
import torch

from casita.datasets_scripts.layouts.layout import load_layout
from casita.datasets_scripts.pictures.draw import draw_background, draw_sensor, picture_keys
from casita.datasets_scripts.pictures.image_embeddings import PixelEncoder
from casita.modeling.configuration_casita import CasitaConfig
from casita.modeling.modeling_casita import CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable

LAYOUTS = {home: load_layout(home) for home in ("milan", "aruba")}
LEVELS = {home: {"T001": (18, 22)} for home in LAYOUTS}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
READS = {"use_coordinates": True, "use_time_deltas": True}


def embed_layout(home):
    layout = LAYOUTS[home]
    keys, background = picture_keys(layout, []), draw_background(layout, 32)
    vectors = PixelEncoder()([draw_sensor(background, layout, key) for key in keys])
    settings = {"vision_model": "pixels", "output": "pixels", "image_size": 32, "pictures_hash": home}
    return SensorEmbeddingTable.build(keys, vectors, home=home, **settings)


@pytest.fixture(scope="module")
def tables():
    return {home: embed_layout(home) for home in LAYOUTS}


def events_of(home, n=120, seed=0):
    """A walk through the rooms: eight events in a room, then the next room; a reading of the thermometer at times."""
    rng, layout = np.random.default_rng(seed), LAYOUTS[home]
    rooms = {}
    for sensor, place in layout["sensors"].items():
        if place["type"] == "motion":
            rooms.setdefault(place["room"], []).append(sensor)
    start, events = datetime(2024, 5, 1, 7), []
    for i in range(n):
        room = sorted(rooms)[i // 8 % len(rooms)]
        event = ("T001", float(rng.integers(15, 25))) if i % 8 == 7 else (rng.choice(rooms[room]), "ON")
        events.append((start + timedelta(seconds=float(20 * i + rng.random())), *event))
    return events


def new_model(rows):
    torch.manual_seed(0)
    sizes = {**SMALL, "projection_dim": 16, "image_embedding_dim": 768, "text_embedding_dim": 8}
    return CasitaModel(CasitaConfig(vocab_size=3 + rows, **sizes, **READS, alibi_distance="time")).eval()


def train(model, inputs, steps=15):
    """Align each window with a random sentence of its own; the loss before and after."""
    texts, losses = torch.randn(len(inputs["input_ids"]), 8, generator=torch.Generator().manual_seed(1)), []
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = model(**inputs, text_embeds=texts, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


@pytest.fixture(scope="module")
def trained(tables):
    """A model that was briefly trained on Milan, and its processor."""
    model = new_model(len(tables["milan"].keys))
    processor = CasitaProcessor(**READS, use_timestamps=True, length=8, overlap=0, text_model="some/model")
    processor.set_home(model, tables["milan"], LAYOUTS["milan"], LEVELS["milan"])
    before, after = train(model, processor(events_of("milan"), return_tensors="pt"))
    assert after < before / 2
    return model, processor


@pytest.fixture
def checkpoint(trained):
    return copy.deepcopy(trained)


@torch.inference_mode()
def embed(model, inputs):
    return model(**inputs).sensor_embeds


def test_a_model_trained_in_milan_reads_aruba_without_training(checkpoint, tables):
    model, processor = checkpoint
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    processor.set_home(model, tables["aruba"], LAYOUTS["aruba"], LEVELS["aruba"])
    inputs = processor(events_of("aruba", 240), return_tensors="pt")
    vectors = embed(model, inputs)
    assert vectors.shape == (30, 16)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.named_parameters())
    # Each window stays in one of nine rooms. Its nearest neighbour is of the same room: by chance in 2.5 cases of 30.
    rooms = [events[0]["room"] for events in processor.decode(inputs["input_ids"])]
    likeness = vectors @ vectors.T - 2 * torch.eye(30)
    assert sum(rooms[i] == rooms[near] for i, near in enumerate(likeness.argmax(dim=1))) >= 25
    assert max(likeness[i, j] for i in range(30) for j in range(30) if rooms[i] != rooms[j]) < 0.95
    # the same numbers as a model that was made for Aruba and got these weights
    native = new_model(len(tables["aruba"].keys))
    native.set_sensor_embeddings(tables["aruba"])
    native.load_state_dict(weights, strict=False)
    assert torch.equal(embed(native, inputs), vectors)


def test_processor_and_model_move_together_and_keep_what_is_the_models(checkpoint, tables, tmp_path):
    model, processor = checkpoint
    tables["aruba"].save(tmp_path)
    (tmp_path / "aruba.json").write_text(json.dumps(LAYOUTS["aruba"]))
    processor.set_home(model, str(tmp_path), tmp_path / "aruba.json", LEVELS["aruba"])
    assert (processor.home, processor.vocab) == ("aruba", tables["aruba"].keys)
    assert processor.rooms["M001"] == LAYOUTS["aruba"]["sensors"]["M001"]["room"]
    width, height = LAYOUTS["aruba"]["size"]
    sensor = LAYOUTS["aruba"]["sensors"]["M001"]
    assert processor.coordinates["M001"] == [sensor["x"] / width, sensor["y"] / height]
    assert processor.levels == {"T001": [18.0, 22.0]}
    assert (processor.text_model, processor.length) == ("some/model", 8)
    ids = processor(events_of("aruba"), cut=False, return_tensors="pt")["input_ids"]
    rows = model.get_input_embeddings().weight[ids[0]]
    for row, event in zip(rows, processor.decode(ids)[0], strict=True):
        one = tables["aruba"].select([f"{event['sensor']}_{event['state']}"])
        assert torch.equal(row, torch.from_numpy(one.embeddings[0]))


def state_of(model, processor):
    return processor.to_json_string(), model.config.to_json_string(), list(model.state_dict().values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": None}, "reads coordinates: give the layout of the home with sensor 'D001'"),
        ({"layout": LAYOUTS["milan"]}, r"home 'milan' does not place \d+ of the table's sensors \(D004"),
        ({"layout": "nowhere.json"}, "nowhere.json: no such layout file"),
        ({"layout": {"sensors": {}}}, 'a layout is {"size"'),
        ({"layout": {"size": [1, 1], "sensors": {"M001": {"x": 1}}}}, "'M001' lacks room, y"),
        ({"levels": {"T999": (1, 2)}}, r"levels\['T999'\]"),
        ({"levels": {"T001": (22, 18)}}, r"levels\['T001'\] = \(22, 18\)"),
        ({"table": "nowhere.safetensors"}, "no such embedding table"),
        ({"table": {"normalization": "l2", "mean": None}}, r"pixels\|pixels\|l2"),
        ({"table": {"vision_model": "clip"}}, r"clip\|pixels\|center"),
        ({"table": {"embeddings": np.eye(70, dtype=np.float32), "mean": np.zeros(70, np.float32)}}, "width 70"),
    ],
)
def test_a_move_that_fails_leaves_both_where_they_were(checkpoint, tables, change, message):
    model, processor = checkpoint
    here, *weights = state_of(model, processor)
    aruba = tables["aruba"]
    arguments = {"table": aruba, "layout": LAYOUTS["aruba"], **change}
    if isinstance(change.get("table"), dict):
        if "embeddings" in change["table"]:
            aruba = aruba.select(aruba.keys[:70])
        arguments["table"] = SensorEmbeddingTable(**{**vars(aruba), **change["table"]})
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        processor.set_home(model, **arguments)
    assert "\n" not in str(error.value)
    again, *after = state_of(model, processor)
    assert again == here
    assert after[0] == weights[0]
    assert all(torch.equal(a, b) for a, b in zip(after[1], weights[1], strict=True))


def test_one_model_holds_many_homes_and_gives_each_the_numbers_of_its_own(checkpoint, tables):
    model, processor = checkpoint
    alone = {}
    for home in LAYOUTS:
        processor.set_home(model, tables[home], LAYOUTS[home], LEVELS[home])
        alone[home] = embed(model, processor(events_of(home), return_tensors="pt"))
    both = SensorEmbeddingTable.concatenate(list(tables.values()))
    processor.set_home(model, both, LAYOUTS, LEVELS)
    for home in LAYOUTS:
        inputs = processor(events_of(home), home=home, return_tensors="pt")
        assert torch.equal(embed(model, inputs), alone[home])
        event = processor.decode(inputs["input_ids"])[0][0]
        assert (event["home"], event["sensor"]) == (home, events_of(home)[0][1])
        assert event["room"] == LAYOUTS[home]["sensors"][event["sensor"]]["room"]
    keys = [[f"{e['sensor']}_{e['state']}" for e in processor.decode(inputs["input_ids"])[0]]]
    cut = processor.encode_windows(keys, [list(range(8))], home="aruba")
    assert cut["input_ids"].tolist() == inputs["input_ids"][:1].tolist()


def test_the_home_of_a_call_must_be_known(checkpoint, tables, tmp_path):
    model, processor = checkpoint
    events = events_of("milan", 8)
    with pytest.raises(ValueError, match=r"home='aruba' is unknown; known: 'milan'.*set_home"):
        processor(events, home="aruba")
    assert (processor(events, home="milan")["input_ids"] == processor(events)["input_ids"]).all()
    both = SensorEmbeddingTable.concatenate(list(tables.values()))
    processor.set_home(model, both, LAYOUTS, LEVELS)
    with pytest.raises(ValueError, match=r"several homes: say whose events these are, home='milan'"):
        processor(events)
    with pytest.raises(ValueError, match=r"home='cairo' is unknown; known: 'milan', 'aruba'"):
        processor(events, home="cairo")
    with pytest.raises(ValueError, match=r"home 'aruba': sensor 'M099' is unknown; nearest in name: M0\d\d,"):
        processor([(0.0, "M099", "ON")], home="aruba")
    with pytest.raises(ValueError, match=r"the table holds the homes milan, aruba; layout names .*sensors"):
        processor.set_home(model, both, LAYOUTS["milan"])
    with pytest.raises(ValueError, match="give the layout of the home with sensor 'aruba/D001'"):
        processor.set_home(model, both, {"milan": LAYOUTS["milan"]})
    processor.home = "milan"  # from now on the one that is read when a call names none
    processor.save_pretrained(tmp_path)
    again = CasitaProcessor.from_pretrained(tmp_path)
    for each in (processor, again):
        np.testing.assert_array_equal(each(events)["input_ids"], processor(events, home="milan")["input_ids"])
    assert again.to_json_string() == processor.to_json_string()


def test_readings_without_levels_are_no_unknown_states(checkpoint, tables):
    model, processor = checkpoint
    processor.set_home(model, tables["aruba"], LAYOUTS["aruba"])
    with pytest.raises(ValueError, match=r"'T001' gave 21.5 but its levels are not set: processor.levels\['T001'\] ="):
        processor([(0.0, "T001", 21.5)])
    processor.levels["T001"] = [18, 22]
    assert processor.decode(processor([(0.0, "T001", 21.5)])["input_ids"])[0][0]["state"] == "NORMAL"


def test_a_model_that_moved_is_saved_where_it_is(checkpoint, tables, tmp_path):
    model, processor = checkpoint
    processor.set_home(model, tables["aruba"], LAYOUTS["aruba"], LEVELS["aruba"])
    for each in (model, processor):
        each.save_pretrained(tmp_path)
    inputs = CasitaProcessor.from_pretrained(tmp_path)(events_of("aruba"), return_tensors="pt")
    expected = embed(model, processor(events_of("aruba"), return_tensors="pt"))
    assert torch.equal(embed(CasitaModel.from_pretrained(tmp_path).eval(), inputs), expected)
