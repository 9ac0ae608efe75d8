"""What training reads: windows meet their captions, batches meet their order, and a missing stage is named."""

from itertools import product

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from train_home import COUNTS, KEYS, LAYOUT, caption_vector, make_home, tiny, write_captions, write_pictures

from casita.datasets_scripts.schema import CAPTIONS, HomeFolder, read_table
from casita.train.data.batch_sampler import BatchSampler
from casita.train.data.dataset import Batch, WindowDataset, build_processor, fingerprint, load_split, load_table


@pytest.fixture
def home(tmp_path) -> HomeFolder:
    return make_home(tmp_path / "home")


def load(home: HomeFolder, split: str = "train", **settings) -> WindowDataset:
    config = tiny(home, home.root / "run", **settings)
    return load_split(config, split, build_processor(config, load_table(config)))


def whole(split: WindowDataset) -> Batch:
    """All windows as one batch, with the captions of epoch 0."""
    return split.batch(np.arange(len(split)), split.choose_captions(0, 0))


def captions_of(home: HomeFolder) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in read_table(home.captions("narrative"), CAPTIONS).to_pylist():
        found.setdefault(row["window_id"], []).append(row["caption"])
    return found


def test_every_window_meets_its_own_caption_whatever_the_files_order(home):
    before = load(home)
    pairs = [(window, caption) for window, (caption,) in captions_of(home).items()]
    write_captions(home, [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))])
    for split in (before, load(home)):
        assert len(split) == COUNTS["train"]
        expected = [caption_vector(captions_of(home)[window][0]) for window in split.window_ids]
        np.testing.assert_array_equal(whole(split).texts.numpy(), expected)


def test_windows_share_a_group_exactly_when_they_share_a_caption(home):
    split = load(home)
    groups = whole(split).caption_ids.numpy()
    texts = np.array([captions_of(home)[window][0] for window in split.window_ids])
    assert np.array_equal(groups[:, None] == groups, texts[:, None] == texts)
    assert len(set(groups)) == split.num_captions < len(split)


def test_the_tensors_hold_the_windows_events(home):
    inputs = whole(load(home, use_time_deltas=True, use_coordinates=True, alibi_distance="time")).inputs
    windows = pq.read_table(home.windows).to_pylist()[: COUNTS["train"]]
    for i, window in enumerate(windows):
        n = len(window["sensor_keys"])
        assert inputs["input_ids"][i].tolist() == [KEYS.index(k) + 3 for k in window["sensor_keys"]] + [0] * (8 - n)
        assert inputs["attention_mask"][i].sum() == n
        assert inputs["timestamps"][i, :n].tolist() == window["seconds"]
        assert inputs["time_deltas"][i, :n].tolist() == np.diff(window["seconds"], prepend=0).tolist()
        sensor = LAYOUT["sensors"][window["sensor_keys"][0].rsplit("_", 1)[0]]
        np.testing.assert_allclose(inputs["coordinates"][i, 0], [sensor["x"] / 200, sensor["y"] / 100], rtol=1e-6)


@pytest.mark.parametrize("options", list(product((False, True), repeat=3)))
def test_a_batch_is_what_the_processor_makes_of_the_same_windows(home, options):
    deltas, coordinates, time = options
    distance = "time" if time else "index"
    config = tiny(
        home, home.root / "run", use_time_deltas=deltas, use_coordinates=coordinates, alibi_distance=distance
    )
    processor = build_processor(config, load_table(config))
    split = load_split(config, "train", processor)
    table = pq.read_table(home.windows).slice(0, COUNTS["train"])
    rows = np.random.default_rng(0).permutation(len(split))[:17]
    chosen = table.take(rows)
    expected = processor.encode_windows(chosen["sensor_keys"], chosen["seconds"])
    found = split.batch(rows, split.choose_captions(0, 0)[rows]).inputs
    assert found.keys() == expected.keys() == set(processor.model_input_names)
    for name, array in expected.items():
        assert found[name].numpy().dtype == array.dtype
        np.testing.assert_array_equal(found[name].numpy(), array)
    assert list(split.window_ids[rows]) == chosen["window_id"].to_pylist()


def test_without_pictures_the_vocabulary_is_that_of_all_windows(home):
    config = tiny(home, home.root / "run", embedding_source="learned")
    home.image_embeddings("pixels").unlink()
    processor = build_processor(config, load_table(config))
    seen = {key for window in pq.read_table(home.windows)["sensor_keys"].to_pylist() for key in window}
    assert processor.vocab == sorted(seen)
    assert (processor.length, processor.max_gap_min, processor.vision_model) == (8, 30.0, None)


def test_of_several_captions_each_epoch_draws_one_and_draws_it_again_when_asked(home):
    pairs = [(window, caption) for window, (caption,) in captions_of(home).items()]
    write_captions(home, pairs + [(window, caption + " Again.") for window, caption in pairs])
    split = load(home)
    drawn = np.stack([split.choose_captions(seed=7, epoch=epoch) for epoch in range(40)])
    assert np.array_equal(drawn[3], split.choose_captions(seed=7, epoch=3))
    every = np.arange(len(split))
    texts = np.stack([split.batch(every, rows).texts.numpy() for rows in drawn])
    for i, window in enumerate(split.window_ids):
        expected = sorted(caption_vector(text).tobytes() for text in captions_of(home)[window])
        assert sorted({text.tobytes() for text in texts[:, i]}) == expected


def test_a_batch_is_cut_to_its_longest_window_and_loses_no_event(home):
    split = load(home)
    lengths = whole(split).inputs["attention_mask"].sum(dim=1)
    short = (lengths <= 5).nonzero().flatten().numpy()
    batch = split.batch(short, split.choose_captions(0, 0)[short])
    assert batch.inputs["input_ids"].shape == (len(short), int(lengths[short].max()))
    assert torch.equal(batch.inputs["attention_mask"].sum(dim=1), lengths[short])
    assert torch.equal(batch.texts, whole(split).texts[short])


def test_an_epoch_reads_every_window_once_and_each_epoch_in_another_order():
    batches = BatchSampler(num_windows=23, size=4, seed=5)
    read = np.concatenate(list(batches.epoch(0)))
    assert len(read) == len(set(read)) == 20  # the incomplete batch is left out
    assert np.array_equal(read, np.concatenate(list(batches.epoch(0))))
    assert not np.array_equal(read, np.concatenate(list(batches.epoch(1))))
    assert not np.array_equal(read, np.concatenate(list(BatchSampler(23, 4, seed=6).epoch(0))))


def test_the_ranks_slices_are_the_global_batch_and_a_later_start_is_the_same_tail():
    whole = list(BatchSampler(50, 12, seed=1).epoch(2))
    ranks = [list(BatchSampler(50, 12, seed=1, rank=rank, ranks=3).epoch(2)) for rank in range(3)]
    for i, batch in enumerate(whole):
        assert np.array_equal(np.concatenate([each[i] for each in ranks]), batch)
    assert np.array_equal(np.stack(list(BatchSampler(50, 12, seed=1).epoch(2, start=3))), np.stack(whole[3:]))


def test_batches_that_cannot_be_made_say_why():
    with pytest.raises(ValueError, match="batch_size=8, but there are 5 windows"):
        BatchSampler(num_windows=5, size=8, seed=0)
    with pytest.raises(ValueError, match="batch_size=9 must be a multiple of the 2 processes"):
        BatchSampler(num_windows=50, size=9, seed=0, ranks=2)


@pytest.mark.parametrize(
    "file, command",
    [
        ("windows.parquet", "casita windows"),
        ("captions/narrative.parquet", "casita caption --caption-style narrative"),
        (
            "text_embeddings/narrative--minilm.parquet",
            "casita embed-text --text-model minilm --caption-style narrative",
        ),
        ("image_embeddings/pixels.safetensors", "casita embed-images --vision-model pixels"),
    ],
)
def test_a_stage_that_has_not_run_is_named_with_its_command(home, file, command):
    (home.root / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file}: not there yet. Run: {command}"):
        load(home)


def test_pictures_of_another_home_are_refused(home):
    write_pictures(home, name="elsewhere")
    with pytest.raises(ValueError, match=r"pictures of home 'elsewhere', .* is home 'toy'.*casita embed-images"):
        load(home)


def test_a_sensor_without_a_picture_is_refused_by_name(home):
    write_pictures(home, keys=[key for key in KEYS if key != "M3_ON"])
    with pytest.raises(ValueError, match="state 'ON' of sensor 'M3' is unknown"):
        load(home)


def test_captions_that_do_not_fit_the_windows_are_refused(home):
    pairs = [(window, caption) for window, (caption,) in captions_of(home).items()]
    vectors = home.text_embeddings("narrative", "minilm").read_bytes()
    write_captions(home, pairs[1:])
    with pytest.raises(ValueError, match=r"1 of 60 train windows have no caption .*the first 'toy/s/fixed/0'"):
        load(home)
    home.text_embeddings("narrative", "minilm").write_bytes(vectors)
    with pytest.raises(
        ValueError, match=r"60 embeddings for 59 captions of train .*59 of them in common.*casita embed-text"
    ):
        load(home)


def test_the_fingerprint_changes_with_any_file_that_a_run_reads(home):
    config = tiny(home, home.root / "run")
    before = fingerprint(config, load_table(config))
    make_home(home.root)  # written again, the same
    assert fingerprint(config, load_table(config)) == before
    write_pictures(home, keys=KEYS[::-1])
    write_captions(home, [(window, caption + "!") for window, (caption,) in captions_of(home).items()])
    after = fingerprint(config, load_table(config))
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] == after[name]} == {"windows.parquet"}
