"""The processor: every kind of input gives the same tensors, and nothing unknown passes in silence."""

import inspect
from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from casita.datasets_scripts.benchmarks.stages import benchmark_encode
from casita.datasets_scripts.schema import EVENTS
from casita.datasets_scripts.windows.cut import WindowSettings, build_windows
from casita.modeling.modeling_casita import CasitaModel, CasitaSensorModel
from casita.processing.processing_casita import CasitaProcessor

VOCAB = ["D001_CLOSE", "D001_OPEN", "M001_OFF", "M001_ON", "M_2_OFF", "M_2_ON", "T001_HIGH", "T001_LOW", "T001_NORMAL"]
COORDINATES = {"D001": [0.1, 0.2], "M001": [0.5, 0.5], "M_2": [0.9, 0.1], "T001": [0.3, 0.8]}


def make_processor(**kwargs):
    settings = {"home": "toy", "coordinates": COORDINATES, "rooms": {"M001": "hall"}, "levels": {"T001": [18, 22]}}
    return CasitaProcessor(VOCAB, **{**settings, **kwargs})


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
    ("events", "message"),
    [
        ([], "no events"),
        (None, "no events"),
        ([(datetime(2024, 1, 1), "M001")], "event 0 is"),
        ([("yesterday", "M001", "ON")], "a timestamp cannot be read"),
        ([("2024-05-01T07:00:00+02:00", "M001", "ON")], "time zone"),
        ([(datetime(2024, 1, 1, tzinfo=timezone.utc), "M001", "ON")], "time zone"),  # noqa: UP017
        (pd.DataFrame({"time": [1], "sensor": ["M001"], "state": ["ON"]}), "'timestamp' is missing"),
        ([(1.0, "T001", "warm")], "sensor 'T001' gives numbers"),
        ([[(1.0, "M001", "ON")], []], "no events"),
    ],
)
def test_bad_events_are_refused_in_one_line(events, message):
    with pytest.raises(ValueError, match=message) as error:
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
    assert again.to_dict() == processor.to_dict()
    for name in processor.model_input_names:
        np.testing.assert_array_equal(again(make_events())[name], processor(make_events())[name])
    assert again.max_gap_min is None


def test_tensors_come_as_torch_when_asked():
    inputs = make_processor()(make_events(), return_tensors="pt")
    assert inputs["input_ids"].dtype == torch.int64


def test_decoding_gives_the_events_back():
    processor, events = make_processor(), make_events(4)
    decoded = processor.decode(processor(events, padding="max_length", max_length=6)["input_ids"])
    assert [(e["sensor"], e["state"]) for e in decoded[0]] == [event[1:] for event in events]
    assert decoded[0][1]["room"] == "hall"
    assert processor.decode([[1, 2]]) == [[dict.fromkeys(("home", "sensor", "state", "room"))] * 2]


def test_cut_windows_are_encoded_like_the_stream_they_came_from():
    processor = make_processor(length=8, overlap=0.5, use_time_deltas=True, use_coordinates=True, use_timestamps=True)
    events = make_events(30)
    expected = processor(events, return_windows=True)
    windows = [[events[i] for i in row if i >= 0] for row in expected.pop("events")]
    assert windows == [events[first:last] for first, last in expected.pop("windows")]
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


def dataset_events(days=4, a_day=60, seed=3):
    """An events table as the dataset's, with silences, a numeric sensor and simultaneous events."""
    rng = np.random.default_rng(seed)
    rows = []
    for day in range(days):
        t_s = np.cumsum(rng.choice([0, 5, 40, 2400], size=a_day, p=[0.1, 0.6, 0.25, 0.05])) + rng.random()
        for i, seconds in enumerate(t_s):
            value = float(rng.integers(15, 25)) if i % 7 == 0 else None
            sensor, state = ("T001", str(value)) if value is not None else ("M001", str(rng.choice(["ON", "OFF"])))
            stamp = datetime(2024, 5, 1 + day, 7) + timedelta(seconds=round(float(seconds), 6))
            rows.append({"home": "toy", "session": "s", "timestamp": stamp, "sensor": sensor, "state": state})
            rows[-1] |= {"value": value, "activity": None, "activities": []}
    return pa.Table.from_pylist(rows, schema=EVENTS)


@pytest.mark.parametrize(
    "how",
    [
        {"length": 10, "overlap": 0.3},
        {"strategy": "fixed_duration", "duration_s": 60.0, "overlap": 0.5},
        {"strategy": "variable_duration", "durations_s": (20.0, 60.0, 300.0), "max_events": 4, "seed": 5},
    ],
)
@pytest.mark.parametrize("max_gap_min", [30.0, 1.0])
def test_a_stream_is_cut_and_encoded_as_the_dataset_was(how, max_gap_min):
    layout = {"home": "toy", "size": [1, 1], "sensors": {s: {"x": 0, "y": 0, "type": "motion"} for s in COORDINATES}}
    settings = WindowSettings(**how, min_events=1, max_gap_min=max_gap_min, numeric="levels")
    events = dataset_events()
    windows, summary = build_windows(events, layout, settings)
    processor = make_processor(**how, max_gap_min=max_gap_min, levels=summary["levels"], use_timestamps=True)
    train = windows.filter(pc.field("split") == "train")
    of_split = events.filter(pc.field("timestamp") <= pc.max(train["end"]))  # the earliest days: one split, one stream
    stream = processor.stream(of_split)
    encoded = processor(of_split)
    expected = processor.encode_windows(train["sensor_keys"], train["seconds"])
    assert len(train) > 15
    assert stream.start.tolist() == train["start"].to_pylist()
    assert stream.end.tolist() == train["end"].to_pylist()
    for name in expected:
        np.testing.assert_array_equal(encoded[name], expected[name])


def test_windows_by_duration_survive_saving_and_contradictions_do_not(tmp_path):
    processor = make_processor(strategy="variable_duration", durations_s=(30, 60), seed=2)
    processor.save_pretrained(tmp_path)
    again = CasitaProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    events = dataset_events().filter(pc.is_null(dataset_events()["value"]))
    assert again.stream(events).first.tolist() == processor.stream(events).first.tolist()
    with pytest.raises(ValueError, match="strategy=fixed_duration needs duration_s"):
        make_processor(strategy="fixed_duration")


def test_window_events_lead_back_to_the_input_whatever_its_order():
    processor, events = make_processor(length=6, overlap=0.5), make_events(25)
    events.insert(9, (events[9][0], "X999", "ON"))
    shuffled = [events[i] for i in np.random.default_rng(2).permutation(len(events))]
    inputs = processor(shuffled, return_windows=True, unknown="skip", padding_side="left")
    for row, ids in zip(inputs["events"], inputs["input_ids"], strict=True):
        keys_in_window = [f"{shuffled[i][1]}_{shuffled[i][2]}" if i >= 0 else None for i in row]
        assert [None if i == 0 else VOCAB[i - 3] for i in ids] == keys_in_window
    many = processor([events[:4], events[10:12]], return_windows=True)
    assert many["events"].tolist() == [[0, 1, 2, 3], [4, 5, -1, -1]]


def test_dicts_of_columns_record_batches_and_frames_of_any_string_kind_give_the_same_tensors():
    processor, events = make_processor(use_time_deltas=True), make_events()
    events[5] = (events[5][0], "T001", "21.5")
    expected, table = processor(events), frame(events)
    dictionary = pa.Table.from_pandas(table).set_column(1, "sensor", pa.array(table["sensor"]).dictionary_encode())
    columns = {name: table[name].tolist() for name in table}
    kinds = [
        columns,
        {name: np.array(values) for name, values in columns.items()},
        table.astype({"sensor": object, "state": object}),
        table.assign(timestamp=(table["timestamp"].astype("datetime64[us]").astype(int) / 1e6)).astype(object),
        table.astype({"sensor": "category", "state": "category"}),
        table.astype({"sensor": "string", "timestamp": str}),
        table.iloc[::-1],
        dictionary,
        pa.Table.from_batches(dictionary.to_batches(max_chunksize=7)),
        dictionary.to_batches()[0],
    ]
    for same in kinds:
        inputs = processor(same)
        for name in expected:
            np.testing.assert_allclose(inputs[name], expected[name], atol=1e-4)
    for windows in ([columns, columns], [table, table]):
        assert processor(windows)["attention_mask"].sum(axis=1).tolist() == [60, 60]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("sensor", None, "event 2 has no sensor"),
        ("state", float("nan"), "event 2 has no state"),
        ("timestamp", None, "event 2 has no timestamp"),
    ],
)
def test_a_missing_value_is_named_by_its_event(column, value, message):
    processor, table = make_processor(), frame(make_events(5))
    table[column] = [*table[column][:2], value, *table[column][3:]]
    columns = {name: table[name].tolist() for name in table}
    triples = list(zip(*columns.values(), strict=True))
    for events in (table, table.astype(object), pa.Table.from_pandas(table), columns, triples):
        with pytest.raises(ValueError, match=message):
            processor(events)
    with pytest.raises(ValueError, match=f"window 1: {message}"):
        processor([frame(make_events(5)), table])


def test_arrow_timestamps_with_a_time_zone_are_refused_too():
    table = pa.Table.from_pandas(
        frame(make_events(3)).assign(timestamp=lambda t: t["timestamp"].dt.tz_localize("UTC"))
    )
    for events in (table, table.to_batches()[0], table.to_pandas()):
        with pytest.raises(ValueError, match="time zone"):
            make_processor()(events)


def test_a_state_keeps_its_type_apart_from_one_that_compares_equal():
    # True == 1 and hash(True) == hash(1): a dictionary or factorize would take them for one state.
    processor = make_processor(levels={"T001": [1.5, 2]})
    events = [(0.0, "T001", 1), (1.0, "M001", True), (2.0, "T001", 1.0)]
    for same in (events, frame(events)):
        assert [VOCAB[i - 3] for i in processor(same)["input_ids"][0]] == ["T001_LOW", "M001_ON", "T001_LOW"]


def test_a_call_that_skips_everything_says_so():
    with pytest.raises(ValueError, match="no event is left"):
        make_processor()([(0.0, "X", "ON")], unknown="skip")
    with pytest.raises(ValueError, match="window 1 has no events left"):
        make_processor()([[(0.0, "M001", "ON")], [(0.0, "X", "ON")]], unknown="skip")


def test_the_benchmark_encodes_what_it_says():
    figures = benchmark_encode(windows=30, length=12, repeats=2)
    assert (figures["windows"], figures["length"]) == (30, 12)
    assert figures["windows_per_s"] == pytest.approx(30e3 / figures["encode_ms"], rel=0.05)
