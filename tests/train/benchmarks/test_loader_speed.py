"""The benchmark's made-up home is one like any other, and its three ways to read it give the same windows."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from casita.datasets_scripts.schema import CAPTIONS, WINDOWS, read_table, text_embeddings_schema
from casita.train.benchmarks import loader_speed as feed_benchmark
from casita.train.benchmarks.loader_speed import SOURCES, config_of, lines_of, measure_feed, write_home
from casita.train.data.dataset import build_processor, load_split, load_table
from casita.train.data.loaders import make_loader


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(feed_benchmark, "ROW_GROUP", 70)
    return write_home(tmp_path, windows=200, length=6, width=8)


def test_the_made_up_home_holds_what_it_says(home):
    windows = read_table(home.windows, WINDOWS)
    assert (len(windows), len(set(windows["window_id"].to_pylist()))) == (200, 200)
    assert set(map(len, windows["sensor_keys"].to_pylist())) == {6}
    assert len(set(read_table(home.captions("narrative"), CAPTIONS)["caption"].to_pylist())) == 200
    embedded = read_table(home.text_embeddings("narrative", "minilm"), text_embeddings_schema(8))
    assert embedded["window_id"].equals(windows["window_id"])


def test_the_loader_gives_the_windows_that_the_feed_gives(home):
    config = config_of(home.root, batch_size=20)
    split = load_split(config, "train", build_processor(config, load_table(config)))
    rows = feed_benchmark._Rows(make_loader(config, split, "cpu"))
    loaded = next(iter(DataLoader(rows, 200)))
    fed = split.batch(np.arange(200), split.choose_captions(0, 0))
    for name, tensor in (*fed.inputs.items(), ("texts", fed.texts)):
        assert torch.equal(loaded[name].flatten(1).sort(dim=0)[0], tensor.flatten(1).sort(dim=0)[0]), name


def test_each_source_is_measured_and_listed(home):
    threads = torch.get_num_threads()
    try:
        feeds = [{"source": s, "batch_size": 20, **measure_feed(home.root, s, 20, 0.05)} for s in SOURCES]
    finally:
        torch.set_num_threads(threads)
    start = {"s": 2.0, "peak_mib": 10.0, "own_mib": 5.0}
    row = {"windows": 200, "length": 6, "width": 8, "start": {"first": start, "again": start}, "feeds": feeds}
    lines = lines_of({**row, "model": {"windows_per_s": 1e-3}})
    assert [line.split()[0] for line in lines[2:5]] == list(SOURCES)
    assert "start first: 2.0 s, 100 windows/s" in lines[0]
    assert all(feed["windows_per_s"] > 0 and feed["peak_mib"] > 0 for feed in feeds)
