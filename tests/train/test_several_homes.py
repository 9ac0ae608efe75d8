"""Several homes in one run: names that cannot be confused, equal captions that meet, batches drawn from few homes."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from train_home import COUNTS, KEYS, LAYOUT, caption_vector, make_home, tiny, write_captions

from casita.datasets_scripts.schema import CAPTIONS, HomeFolder, read_table
from casita.train.align import train
from casita.train.data.batch_sampler import BatchSampler
from casita.train.data.dataset import WindowDataset, build_processor, fingerprint, load_split, load_table
from casita.train.data.loaders import make_loader
from casita.train.inference.model_directory import load_published
from casita.train.metrics.ranking import recall_by_home, retrieval_metrics

HOMES = ["casa", "haus"]


@pytest.fixture
def homes(tmp_path) -> HomeFolder:
    """A data set of two homes, as the folder that `tiny` wants."""
    for seed, name in enumerate(HOMES):
        make_home(tmp_path / "homes" / name, seed, name)
    return HomeFolder(tmp_path / "homes")


def load(homes: HomeFolder, **settings) -> WindowDataset:
    config = tiny(homes, homes.root / "run", **settings)
    return load_split(config, "train", build_processor(config, load_table(config)))


@pytest.mark.parametrize("source", ["image", "learned"])
def test_a_mixed_batch_is_what_the_processor_makes_of_each_homes_windows(homes, source):
    options = {"use_time_deltas": True, "use_coordinates": True, "alibi_distance": "time"}
    config = tiny(homes, homes.root / "run", embedding_source=source, **options)
    processor = build_processor(config, load_table(config))
    split = load_split(config, "train", processor)
    assert (split.home_names, len(split)) == (HOMES, 2 * COUNTS["train"])
    rows = np.random.default_rng(0).permutation(len(split))[:40]
    batch = split.batch(rows, split.choose_captions(0, 0)[rows])
    for number, home in enumerate(HOMES):
        home_rows = np.flatnonzero(split.homes[rows] == number)
        ids = list(split.window_ids[rows[home_rows]])
        windows = {row["window_id"]: row for row in pq.read_table(homes.root / home / "windows.parquet").to_pylist()}
        chosen = [windows[name] for name in ids]
        expected = processor.encode_windows(*([w[c] for w in chosen] for c in ("sensor_keys", "seconds")), home=home)
        for name, array in expected.items():
            length = array.shape[1]
            inputs = batch.inputs[name].numpy()[home_rows]
            np.testing.assert_array_equal(inputs[:, :length], array)
            assert (inputs[:, length:] == (0.5 if name == "coordinates" else 0)).all()
        captions = {
            row["window_id"]: row["caption"]
            for row in read_table(HomeFolder(homes.root / home).captions("narrative"), CAPTIONS).to_pylist()
        }
        np.testing.assert_array_equal(batch.texts.numpy()[home_rows], [caption_vector(captions[name]) for name in ids])


def test_the_processor_keeps_the_homes_sensors_apart(homes):
    processor = build_processor(tiny(homes, homes.root / "run"), load_table(tiny(homes, homes.root / "run")))
    assert processor.vocab == [f"{home}/{key}" for home in HOMES for key in KEYS]
    assert (processor.home, processor.homes) == (None, HOMES)
    assert processor.coordinates["haus/M3"] == processor.coordinates["casa/M3"] != processor.coordinates["casa/M1"]
    assert processor.rooms["haus/D1"] == "Hall"
    (event,) = processor.decode(processor([("2024-01-01", "M2", "ON")], home="haus")["input_ids"])[0]
    assert event == {"home": "haus", "sensor": "M2", "state": "ON", "room": LAYOUT["sensors"]["M2"]["room"]}


def test_the_same_caption_in_two_homes_is_one_group(homes):
    split = load(homes)
    batch = split.batch(np.arange(len(split)), split.choose_captions(0, 0))
    texts = np.array([vector.tobytes() for vector in batch.texts.numpy()])
    groups = batch.caption_ids.numpy()
    assert np.array_equal(groups[:, None] == groups, texts[:, None] == texts)
    assert set(groups[split.homes == 0]) & set(groups[split.homes == 1])
    assert split.num_captions == len(set(groups))


def test_a_data_set_of_one_home_is_that_home(tmp_path):
    home = make_home(tmp_path / "homes" / "casa")
    alone, inside = (tiny(HomeFolder(root), tmp_path / "run") for root in (home.root, tmp_path / "homes"))
    one, other = (build_processor(config, load_table(config)) for config in (alone, inside))
    assert one.to_dict() == other.to_dict()
    assert list(fingerprint(inside, None)) == [f"casa/{name}" for name in fingerprint(alone, None)]


def test_homes_that_were_cut_differently_are_refused(homes):
    home = HomeFolder(homes.root / "haus")
    home.record("windows", {"length": 50, "overlap": 0.5}, inputs=[], outputs=[home.windows])
    with pytest.raises(ValueError, match=r"haus: its windows were cut with .*'length': 50.*casa with .*'length': 8"):
        load(homes)


def test_a_run_over_two_homes_logs_each_homes_recall_and_publishes_a_model_that_knows_both(homes, tmp_path):
    run = train(tiny(homes, tmp_path / "run", epochs=1, home_batches=1))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = [line for line in lines if line["split"] == "validation"][-1]
    assert {f"recall_at_1_sensor_to_text/{home}" for home in HOMES} <= metrics.keys()
    model, processor = load_published(run)
    events = [("2024-01-01 08:00:00", "M1", "ON"), ("2024-01-01 08:00:09", "D1", "OPEN")]
    one, other = (processor([events], home=home, return_tensors="pt") for home in HOMES)
    assert set(one["input_ids"].flatten().tolist()).isdisjoint(other["input_ids"].flatten().tolist())
    assert model(**one).sensor_embeds.shape == (1, 16)
    card = Path(run / "model" / "README.md").read_text()
    assert "# Casita, casa, haus" in card
    assert '"M1", "ON"' in card
    assert 'home="casa"' in card


def test_a_homes_recall_is_that_of_its_windows_among_its_own_captions():
    rng = np.random.default_rng(0)
    sensor, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 50, 4)))
    groups, homes = np.arange(50) // 2, np.arange(50) % 3
    recall = recall_by_home(sensor, text, groups, homes, ["a", "b", "c", "empty"])
    assert list(recall) == [f"recall_at_1_sensor_to_text/{name}" for name in "abc"]
    rows_of_b = homes == 1
    alone = retrieval_metrics(sensor[rows_of_b], text[rows_of_b], groups[rows_of_b])["sensor_to_text"]["recall_at_1"]
    assert recall["recall_at_1_sensor_to_text/b"] == alone
    assert recall_by_home(sensor, text, groups, homes * 0, ["only"]) == {}


# ----------------------------------------------------------------------------------------------- home_batches
def few_homes(sizes: list[int], **options) -> tuple[np.ndarray, BatchSampler]:
    homes = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    return homes, BatchSampler(len(homes), homes=homes, **{"size": 12, "seed": 3, **options})


@pytest.mark.parametrize("few", [1, 2, 3])
def test_a_batch_holds_windows_of_few_homes_and_no_window_comes_twice(few):
    homes, batches = few_homes([100, 60, 31, 25, 13], home_batches=few)
    for epoch in range(4):
        read = list(batches.epoch(epoch))
        assert len(read) == len(batches)
        assert all(len(rows) == 12 and len(set(homes[rows])) <= few for rows in read)
        every = np.concatenate(read)
        assert len(set(every)) == len(every) > 229 - 5 * 12 // few - 12
    assert {len(set(homes[rows])) for rows in read} == set(range(1, few + 1))


def test_homes_are_met_in_proportion_to_their_windows_and_every_window_is_met():
    homes, batches = few_homes([200, 100, 50], home_batches=2)
    read = np.concatenate([rows for epoch in range(30) for rows in batches.epoch(epoch)])
    assert set(read) == set(range(350))
    share = np.bincount(homes[read]) / len(read)
    # Less than a piece of 6 of a home and a batch of 12 are left out of 350 windows: shares move by 12 / 350 at most.
    np.testing.assert_allclose(share, [200 / 350, 100 / 350, 50 / 350], atol=12 / 350)


def test_ranks_share_a_batch_of_few_homes_and_a_later_start_is_the_same_tail():
    _, one = few_homes([50, 40, 30], home_batches=2)
    ranks = [few_homes([50, 40, 30], home_batches=2, rank=rank, ranks=3)[1] for rank in range(3)]
    rows = np.stack(list(one.epoch(1)))
    assert np.array_equal(np.concatenate([np.stack(list(each.epoch(1))) for each in ranks], axis=1), rows)
    assert np.array_equal(np.stack(list(one.epoch(1, start=4))), rows[4:])


def test_as_many_homes_as_there_are_bound_nothing():
    _, bound = few_homes([50, 40], home_batches=2)
    assert np.array_equal(bound.order(0), BatchSampler(90, 12, 3).order(0))


def test_a_home_too_small_for_its_share_of_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"takes 6 windows of a home at a time, but one home has only 5"):
        few_homes([50, 40, 5], home_batches=2)


def test_the_setting_reaches_the_batches(homes):
    config = tiny(homes, homes.root / "run", home_batches=1)
    split = load_split(config, "train", build_processor(config, load_table(config)))
    feed = make_loader(config, split, "cpu")
    for number in range(len(feed)):
        assert len({name.split("/")[0] for name in feed.window_ids(0, number)}) == 1


def test_windows_of_one_home_without_captions_are_counted_under_its_file(homes):
    home = HomeFolder(homes.root / "haus")
    pairs = [(f"haus/s/fixed/{i}", "Somebody.") for i in range(5, 90)]
    write_captions(home, pairs)
    with pytest.raises(ValueError, match=r"haus/captions/narrative.parquet: 5 of 60 windows have no captions"):
        load(homes)
