"""The processor: every kind of input gives the same tensors, and nothing unknown passes in silence."""

import inspect
from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from casita.modeling.modeling_casita import CasitaModel, CasitaSensorModel
from casita.processing.processing_casita import CasitaProcessor

VOCAB = ["D001_CLOSE", "D001_OPEN", "M001_OFF", "M001_ON", "M_2_OFF", "M_2_ON", "T001_HIGH", "T001_LOW", "T001_NORMAL"]
COORDINATES = {"D001": [0.1, 0.2], "M001": [0.5, 0.5], "M_2": [0.9, 0.1], "T001": [0.3, 0.8]}


def make_processor(**kwargs):
    told = {"home": "toy", "coordinates": COORDINATES, "rooms": {"M001": "hall"}, "levels": {"T001": [18, 22]}}
    return CasitaProcessor(VOCAB, **{**told, **kwargs})


def make_events(n=60, seed=0):
    rng = np.random.default_rng(seed)
    start, events = datetime(2024, 5, 1, 7), []
    for i in range(n):
        sensor, states = [("D001", ("OPEN", "CLOSE")), ("M001", ("ON", "OFF")), ("M_2", ("ON", "OFF"))][i % 3]
        events.append((start + timedelta(seconds=float(i * 7 + rng.random())), sensor, states[int(rng.integers(2))]))
    return events


def frame(events, **columns):
    stamps, sensors, states = zip(*events, strict=True)
    return pd.DataFrame({"timestamp": stamps, "sensor": sensors, "state": states, **columns})


def slow_encode(processor, window):
    """One window, event by event."""
    ids, deltas, seconds, places = [], [], [], []
    for i, (stamp, sensor, state) in enumerate(window):
        ids.append(3 + processor.vocab.index(f"{sensor}_{state}"))
        seconds.append((stamp - window[0][0]).total_seconds())
        deltas.append(seconds[i] - seconds[i - 1] if i else 0.0)
        places.append(processor.coordinates[sensor])
    return {"input_ids": ids, "time_deltas": deltas, "timestamps": seconds, "coordinates": places}


@pytest.mark.parametrize("length", [1, 7, 20, 100])
def test_a_stream_is_encoded_as_a_loop_would(length):
    processor = make_processor(length=length, use_time_deltas=True, use_coordinates=True, use_timestamps=True)
    events = make_events()
    inputs = processor(events, return_windows=True)
    for row, (first, last) in enumerate(inputs["windows"]):
        expected = slow_encode(processor, events[first:last])
        assert inputs["attention_mask"][row].sum() == last - first
        for name, values in expected.items():
            np.testing.assert_allclose(inputs[name][row][: last - first], values, rtol=1e-5, atol=1e-5)
    assert inputs["windows"][-1][1] == len(events)


def test_tuples_dicts_frames_and_arrow_give_the_same_tensors():
    processor, events = make_processor(use_time_deltas=True), make_events()
    dicts = [dict(zip(("timestamp", "sensor", "state"), event, strict=True)) for event in events]
    texts = [(stamp.isoformat(" "), sensor, state) for stamp, sensor, state in events]
    numbers = [((stamp - datetime(1970, 1, 1)).total_seconds(), sensor, state) for stamp, sensor, state in events]
    expected = processor(events)
    for same in (dicts, texts, numbers, frame(events), pa.Table.from_pandas(frame(events))):
        inputs = processor(same)
        assert list(inputs) == list(expected)
        for name in expected:
            np.testing.assert_allclose(inputs[name], expected[name], atol=1e-4)


def test_many_windows_are_taken_as_they_are():
    processor, events = make_processor(length=5), make_events()
    windows = [events[:3], events[10:31], events[5:6]]
    inputs = processor(windows)
    assert inputs["attention_mask"].sum(axis=1).tolist() == [3, 21, 1]
    for i, window in enumerate(windows):
        assert inputs["input_ids"][i][: len(window)].tolist() == slow_encode(processor, window)["input_ids"]
    frames = processor([frame(window) for window in windows])
    assert (frames["input_ids"] == inputs["input_ids"]).all()


def test_the_order_of_the_input_does_not_matter_but_simultaneous_events_keep_theirs():
    processor, events = make_processor(), make_events()
    shuffled = [events[i] for i in np.random.default_rng(1).permutation(len(events))]
    assert (processor(shuffled)["input_ids"] == processor(events)["input_ids"]).all()
    now = datetime(2024, 1, 1)
    together = [(now, "M001", "ON"), (now, "D001", "OPEN"), (now, "M001", "OFF")]
    assert processor(together)["input_ids"].tolist() == [[6, 4, 5]]


def test_windows_cross_neither_sessions_nor_long_silences():
    processor, events = make_processor(length=20, overlap=0, max_gap_min=30), make_events(40)
    sessions = ["a"] * 15 + ["b"] * 25
    inputs = processor(frame(events, session=sessions), return_windows=True)
    assert inputs["windows"].tolist() == [[0, 15], [15, 35], [35, 40]]
    late = [(stamp + timedelta(minutes=31 * (i >= 10)), *rest) for i, (stamp, *rest) in enumerate(events)]
    assert processor(late, return_windows=True)["windows"].tolist() == [[0, 10], [10, 30], [30, 40]]
    assert processor(late, cut=False)["input_ids"].shape == (1, 40)


def test_padding_on_the_left_holds_the_same_events():
    processor = make_processor(length=7, overlap=0, use_time_deltas=True, use_timestamps=True, use_coordinates=True)
    right, left = processor(make_events(10)), processor(make_events(10), padding_side="left")
    assert left["attention_mask"].tolist()[1] == [0] * 4 + [1] * 3
    for name in right:
        np.testing.assert_array_equal(left[name][1][4:], right[name][1][:3])


def test_padding_to_a_length():
    inputs = make_processor(length=7)(make_events(10), padding="max_length", max_length=12)
    assert inputs["input_ids"].shape == (2, 12)
    assert (inputs["input_ids"][:, 7:] == 0).all()


def test_noisy_states_and_readings_find_their_row():
    now = datetime(2024, 1, 1)
    events = [
        (now, "M001", "on"),
        (now, "M001", "ON`"),
        (now, "T001", 25.0),
        (now, "T001", "17.9"),
        (now, "T001", "18"),
    ]
    ids = make_processor()(events)["input_ids"][0] - 3
    assert [VOCAB[i] for i in ids] == ["M001_ON", "M001_ON", "T001_HIGH", "T001_LOW", "T001_NORMAL"]


def test_an_unknown_sensor_is_named_with_its_neighbours_and_the_ways_out():
    events = [*make_events(5), (datetime(2024, 5, 2), "M003", "ON")]
    processor = make_processor()
    with pytest.raises(
        ValueError, match=r"home 'toy': sensor 'M003' is unknown; nearest in name: M001.*unknown=\"skip\""
    ):
        processor(events)
    with pytest.raises(ValueError, match=r"state 'AJAR' of sensor 'D001' is unknown; its states: CLOSE, OPEN"):
        processor([(datetime(2024, 5, 2), "D001", "AJAR")])
    assert processor(events, unknown="skip", cut=False)["attention_mask"].sum() == 5
    assert processor(events, unknown="unk", cut=False)["input_ids"][0].tolist()[-1] == 1
    with pytest.raises(ValueError, match="none of"):
        processor(events, unknown="zero")


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([], "no events"),
        (None, "no events"),
        ([(datetime(2024, 1, 1), "M001")], "event 0 is"),
        ([("yesterday", "M001", "ON")], "a timestamp cannot be read"),
        ([(datetime(2024, 1, 1, tzinfo=timezone.utc), "M001", "ON")], "time zone"),  # noqa: UP017
        (pd.DataFrame({"time": [1], "sensor": ["M001"], "state": ["ON"]}), "'timestamp' is missing"),
        ([(1.0, "T001", "warm")], "sensor 'T001' gives numbers"),
        ([[(1.0, "M001", "ON")], []], "no events"),
    ],
)
def test_bad_events_are_refused_in_one_line(events, told):
    with pytest.raises(ValueError, match=told) as error:
        make_processor()(events)
    assert "\n" not in str(error.value)


def test_the_processor_feeds_the_model():
    processor = make_processor(use_time_deltas=True, use_coordinates=True, use_timestamps=True)
    for model in (CasitaModel, CasitaSensorModel):
        assert set(processor(make_events())) <= set(inspect.signature(model.forward).parameters)
    assert set(processor(make_events())) == set(processor.model_input_names)


def test_saved_and_loaded_it_gives_the_same_tensors_and_keeps_all_it_carries(tmp_path):
    processor = make_processor(
        use_time_deltas=True,
        use_coordinates=True,
        length=11,
        overlap=0.25,
        max_gap_min=None,
        text_model="some/model",
        label_prompts={"Cook": ["somebody cooks"]},
        vision_model="pixels",
    )
    processor.save_pretrained(tmp_path)
    again = CasitaProcessor.from_pretrained(tmp_path)
    kept, carried = (one.to_dict() for one in (again, processor))
    # auto_map comes and goes with register_for_auto_class, which a published model calls for the whole process
    assert {k: v for k, v in kept.items() if k != "auto_map"} == {k: v for k, v in carried.items() if k != "auto_map"}
    for name in processor.model_input_names:
        np.testing.assert_array_equal(again(make_events())[name], processor(make_events())[name])
    assert again.max_gap_min is None


def test_tensors_come_as_torch_when_asked():
    inputs = make_processor()(make_events(), return_tensors="pt")
    assert inputs["input_ids"].dtype == torch.int64


def test_decoding_tells_the_events():
    processor, events = make_processor(), make_events(4)
    decoded = processor.decode(processor(events, padding="max_length", max_length=6)["input_ids"])
    assert [(e["sensor"], e["state"]) for e in decoded[0]] == [event[1:] for event in events]
    assert decoded[0][1]["room"] == "hall"
    assert processor.decode([[1, 2]]) == [[{"sensor": None, "state": None, "room": None}] * 2]


def test_cut_windows_are_encoded_like_the_stream_they_came_from():
    processor = make_processor(length=8, overlap=0.5, use_time_deltas=True, use_coordinates=True, use_timestamps=True)
    events = make_events(30)
    expected = processor(events, return_windows=True)
    windows = [events[first:last] for first, last in expected.pop("windows")]
    keys = [[f"{sensor}_{state}" for _, sensor, state in window] for window in windows]
    seconds = [[(stamp - window[0][0]).total_seconds() for stamp, *_ in window] for window in windows]
    arrow = pa.chunked_array([pa.array(keys[:2]), pa.array(keys[2:])]), pa.chunked_array([pa.array(seconds)])
    for encoded in (processor.encode_windows(keys, seconds), processor.encode_windows(*arrow)):
        for name in expected:
            np.testing.assert_allclose(encoded[name], expected[name], atol=1e-5)
    with pytest.raises(ValueError, match="sensor 'X' is unknown"):
        processor.encode_windows([["X_ON"]], [[0.0]])


def test_a_key_twice_in_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="a key twice"):
        CasitaProcessor(["M001_ON", "M001_ON"])
