"""Events one by one give the windows, and the numbers, of the whole recording."""

from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest
import torch

from casita.modeling.configuration_casita import CasitaConfig
from casita.modeling.modeling_casita import CasitaModel
from casita.modeling.pipeline_casita import SensorEmbeddingPipeline
from casita.modeling.streaming_casita import CasitaStream
from casita.processing.processing_casita import CasitaProcessor

VOCAB = [f"M{i:03d}_{state}" for i in range(6) for state in ("OFF", "ON")]
PLACES = {f"M{i:03d}": [i / 6, 1 - i / 6] for i in range(6)}
SECOND = timedelta(seconds=1)


def make_pair(length=8, overlap=0.5, **kwargs):
    torch.manual_seed(0)
    reads = {"use_time_deltas": True, "use_coordinates": True}
    config = CasitaConfig(
        vocab_size=15,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        projection_dim=16,
        image_embedding_dim=24,
        alibi_distance="time",
        **reads,
    )
    processor = CasitaProcessor(
        VOCAB, home="toy", coordinates=PLACES, length=length, overlap=overlap, use_timestamps=True, **reads, **kwargs
    )
    return CasitaModel(config).eval(), processor


def make_events(runs, seed=0, gap=timedelta(minutes=31)):
    """Stretches of `runs` events each, with `gap` of silence between them."""
    rng, now, events = np.random.default_rng(seed), datetime(2024, 5, 1, 7), []
    for size in runs:
        for _ in range(size):
            now += SECOND * int(rng.integers(0, 90))
            events.append((now, f"M{rng.integers(6):03d}", ("ON", "OFF")[int(rng.integers(2))]))
        now += gap
    return events


def test_a_stream_counts_events_so_a_processor_of_durations_needs_numbers():
    model, processor = make_pair(strategy="fixed_duration", duration_s=60.0)
    with pytest.raises(ValueError, match=r"strategy='fixed_duration'.*length= and every="):
        CasitaStream(model, processor)
    stream = CasitaStream(model, processor, length=4, every=2)
    assert [row["events"] for row in push_all(stream, make_events([6]))] == [4, 4]


def push_all(stream, events):
    results = [stream.push(event) for event in events]
    return [row for row in [*results, stream.flush()] if row is not None]


def assert_same_rows(found, expected):
    columns = ("start", "end", "events")
    assert [[row[name] for name in columns] for row in found] == [[row[name] for name in columns] for row in expected]
    vectors = [np.stack([row["vector"] for row in rows]) for rows in (found, expected)]
    np.testing.assert_allclose(*vectors, rtol=0, atol=1e-5)  # float32 sums in another order: padding, batch size


@pytest.mark.parametrize(("length", "overlap"), [(8, 0.5), (8, 0.0), (8, 0.9), (5, 0.3), (1, 0.0), (30, 0.5)])
def test_event_by_event_equals_the_batch(length, overlap):
    # runs shorter than a window, of just one, of one more, of windows and a rest, and a single event
    events = make_events([3, 8, 9, 21, 1, 12, 30, 31])
    model, processor = make_pair(length, overlap)
    expected = SensorEmbeddingPipeline(model=model, processor=processor, device="cpu")(events)
    assert_same_rows(push_all(CasitaStream(model, processor), events), expected)


def test_a_flush_between_recordings_equals_the_batchs_sessions():
    model, processor = make_pair()
    events = make_events([12, 19], gap=SECOND)
    table = pd.DataFrame(events, columns=["timestamp", "sensor", "state"]).assign(session=["a"] * 12 + ["b"] * 19)
    expected = SensorEmbeddingPipeline(model=model, processor=processor, device="cpu")(table)
    stream = CasitaStream(model, processor)
    found = push_all(stream, events[:12]) + push_all(stream, events[12:])
    assert_same_rows(found, expected)
    assert len(expected) != len(processor(events)["input_ids"])  # the border between the recordings mattered


def test_every_overrides_the_overlap():
    model, processor = make_pair(length=20, overlap=0.5)
    events = make_events([40])
    finer = SensorEmbeddingPipeline(model=model, processor=make_pair(length=10, overlap=0.7)[1], device="cpu")
    assert_same_rows(push_all(CasitaStream(model, processor, length=10, every=3), events), finer(events))


def test_due_in_counts_the_events_to_the_next_result():
    stream = CasitaStream(*make_pair(length=5, overlap=0.6))  # every 2
    due, is_result = [], []
    for event in make_events([11]):
        due.append(stream.due_in)
        is_result.append(stream.push(event) is not None)
    assert due == [5, 4, 3, 2, 1, 2, 1, 2, 1, 2, 1]
    assert is_result == [left == 1 for left in due]


def test_a_silence_ends_the_window_before_it():
    stream = CasitaStream(*make_pair())
    first, second = make_events([3, 1])[:3], make_events([3, 1])[3]
    assert [stream.push(event) for event in first] == [None] * 3
    row = stream.push(second)
    assert (row["start"], row["end"], row["events"]) == (first[0][0], first[-1][0], 3)
    assert len(stream) == 1


def test_a_silence_of_just_the_limit_does_not():
    stream = CasitaStream(*make_pair(max_gap_min=30))
    now = datetime(2024, 5, 1)
    assert stream.push((now, "M001", "ON")) is None
    assert stream.push((now + timedelta(minutes=30), "M001", "OFF")) is None
    assert len(stream) == 2


def test_memory_is_bounded_by_the_window():
    stream = CasitaStream(*make_pair(length=4, max_gap_min=None))
    for event in make_events([1] * 50):
        stream.push(event)
        assert len(stream) <= 4


def test_without_new_events_there_is_no_result():
    stream = CasitaStream(*make_pair(length=4, overlap=0.5))
    assert stream.flush() is None
    for event in make_events([6]):
        stream.push(event)
    assert stream.flush() is None  # the sixth event's result was the last
    assert len(stream) == 0


def test_an_event_before_the_newest_is_refused_and_changes_nothing():
    model, processor = make_pair()
    stream, events = CasitaStream(model, processor), make_events([12])
    rows = []
    for event in events:
        rows.append(stream.push(event))
        with pytest.raises(ValueError, match=r"is 5 s before the newest one. Sort events"):
            stream.push((event[0] - 5 * SECOND, "M001", "ON"))
        with pytest.raises(ValueError, match="sensor 'X' is unknown"):
            stream.push((event[0], "X", "ON"))
    rows = [row for row in [*rows, stream.flush()] if row]
    assert_same_rows(rows, push_all(CasitaStream(model, processor), events))


def test_an_unknown_event_is_skipped_as_in_the_batch():
    model, processor = make_pair()
    events = [pushed for event in make_events([11, 9]) for pushed in (event, (event[0], "X", "ON"))]
    pipe = SensorEmbeddingPipeline(model=model, processor=processor, device="cpu")
    for unknown in ("skip", "unk"):
        found = push_all(CasitaStream(model, processor, unknown=unknown), events)
        assert_same_rows(found, pipe(events, unknown=unknown))


@pytest.mark.parametrize("sizes", [{"every": 9}, {"every": 0}, {"length": 0}])
def test_an_event_that_no_window_would_hold_is_refused(sizes):
    with pytest.raises(ValueError, match="between 1 and length"):
        CasitaStream(*make_pair(), **sizes)


def test_a_model_in_training_mode_is_refused():
    model, processor = make_pair()
    with pytest.raises(ValueError, match="training mode"):
        CasitaStream(model.train(), processor)
