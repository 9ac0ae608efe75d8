"""The loss of the captions before and after a window: whose captions they are, what it is, and what it teaches."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from alignment_objective import make
from event_tables import LAYOUT, make_events
from train_home import make_home, tiny

from casita.datasets_scripts.schema import WINDOWS, HomeFolder, read_table
from casita.datasets_scripts.windows.cut import WindowSettings, build_windows
from casita.train.align import train
from casita.train.data.dataset import build_processor, load_split, load_table
from casita.train.data.loaders import make_loader, steps_apart
from casita.train.evaluate_run import read_metrics

WEIGHT = {"context_weight": 0.5}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> HomeFolder:
    """The toy home, its train windows in sessions of 25, 30 and 5 windows."""
    home = make_home(tmp_path_factory.mktemp("toy") / "home")
    windows = read_table(home.windows, WINDOWS)
    sessions = [f"s{(i >= 25) + (i >= 55)}" for i in range(len(windows))]
    ids = [f"toy/{session}/fixed/{i}" for i, session in enumerate(sessions)]
    rename = dict(zip(windows["window_id"].to_pylist(), ids, strict=True))
    for path in (home.windows, home.captions("narrative"), home.text_embeddings("narrative", "minilm")):
        table = pq.read_table(path)
        column = pa.array([rename[name] for name in table["window_id"].to_pylist()])
        pq.write_table(table.set_column(table.column_names.index("window_id"), "window_id", column), path)
    return home


def test_before_and_after_are_windows_of_the_session_that_share_no_event(home):
    config = tiny(home, home.root.parent / "run", **WEIGHT)
    split = load_split(config, "train", build_processor(config, load_table(config)))
    assert steps_apart(config) == 2  # windows overlap by half
    neighbours = split.neighbours(2)
    assert neighbours[10].tolist() == [8, 12]
    assert neighbours[1].tolist() == [1, 3]  # its session begins less than two windows before
    assert neighbours[24].tolist() == [22, 24]
    assert neighbours[25].tolist() == [25, 27]
    assert neighbours[59].tolist() == [57, 59]


def test_where_train_windows_overlap_more_the_next_that_shares_no_event_is_further(home, tmp_path):
    how = {"length": 20, "numeric": "levels", "max_gap_min": None, "train_overlap": 0.9}
    windows, _ = build_windows(make_events(), LAYOUT, WindowSettings(**how))
    dense = HomeFolder(tmp_path)
    dense.describe(home="toy", layout=LAYOUT)
    dense.record("windows", {**how, "overlap": 0.5}, inputs=[], outputs=[])
    step = steps_apart(tiny(dense, tmp_path / "run", **WEIGHT))
    start, end = windows["start"].to_pylist(), windows["end"].to_pylist()
    assert next(i for i in range(len(start)) if start[i] > end[0]) == step == 10


def test_a_batch_brings_the_captions_before_and_after(home):
    config = tiny(home, home.root.parent / "run", **WEIGHT)
    split = load_split(config, "train", build_processor(config, load_table(config)))
    feed = make_loader(config, split, torch.device("cpu"))
    captions, neighbours = split.choose_captions(config.seed, 0), split.neighbours(2)
    rows, batch = next(feed.batches.epoch(0)), next(feed.epoch(0))
    alone = split.batch(rows, captions[rows])
    torch.testing.assert_close(batch.texts, alone.texts, rtol=0, atol=0)
    for side in (0, 1):
        there = split.batch(neighbours[rows, side], captions[neighbours[rows, side]])
        torch.testing.assert_close(batch.neighbours[:, side], there.texts, rtol=0, atol=0)
        assert batch.neighbour_ids[:, side].tolist() == there.caption_ids.tolist()


def test_the_loss_equals_the_slow_obvious_one(home):
    objective, batch = make(home, dropout=0.0, **WEIGHT)
    neighbours = np.array([[0, 2], [0, 3], [0, 4], *([i - 2, i + 2] for i in range(3, 10)), [8, 10], [9, 11]])
    split = load_split(objective.config, "train", build_processor(objective.config, load_table(objective.config)))
    rows = np.arange(12)
    captions = split.choose_captions(0, 0)
    batch = split.batch(rows, captions[rows], "cpu", captions[neighbours])
    returned = objective.backward(batch)
    trained = objective.trained
    with torch.no_grad():
        pooled = trained.model.sensor_model(**batch.inputs).pooler_output
        losses = []
        for side, head in enumerate(trained.neighbour_heads):
            guess = torch.nn.functional.normalize(head(pooled), dim=-1)
            text = torch.nn.functional.normalize(trained.model.text_projection(batch.neighbours[:, side]), dim=-1)
            logits, group = guess @ text.T / 0.07, batch.neighbour_ids[:, side]
            for way in (logits, logits.T):
                for i in range(12):
                    same = [way[i].log_softmax(0)[j] for j in range(12) if group[j] == group[i]]
                    losses.append(-sum(same) / len(same))
    expected = float(sum(losses) / len(losses))
    assert float(returned["context_loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(returned["loss"]) == pytest.approx(float(returned["contrast_loss"]) + 0.5 * expected, rel=1e-5)


def test_training_logs_it_and_validation_leaves_it_out(home, tmp_path):
    run = train(tiny(home, tmp_path / "run", **WEIGHT))
    lines = read_metrics(run / "metrics.jsonl")
    assert all(("context_loss" in line) == (line["split"] == "train") for line in lines)
    saved = (run / "model" / "model.safetensors").read_bytes()
    assert b"neighbour" not in saved[:20_000]  # its heads are the training's, not the model's


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stream": True}, "only with stream false"),
        ({"micro_batch_size": 4}, "only with micro_batch_size none"),
        ({"contrast_weight": 0.0, "masked_weight": 1.0}, "only with contrast_weight above 0"),
    ],
)
def test_what_it_does_not_go_with_is_refused(home, settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(home, Path("run"), **WEIGHT, **settings)
