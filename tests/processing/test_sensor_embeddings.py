"""The embedding table: what is written is read, what is broken is refused."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file

from casita.processing.sensor_embeddings import SensorEmbeddingTable, normalize, whitening_of

WHITEN = {"normalization": "whiten"}


@pytest.fixture
def table() -> SensorEmbeddingTable:
    rows, mean, _ = normalize(np.random.default_rng(0).normal(3, 1, (4, 6)), "center")
    return SensorEmbeddingTable(
        keys=["M001_OFF", "M001_ON", "Hall_door_ON", "naïve_OPEN"],
        embeddings=rows,
        home="flat",
        vision_model="clip",
        revision="abc123",
        output="projected",
        image_size=224,
        pictures_hash="f00",
        normalization="center",
        mean=mean,
    )


@pytest.fixture
def house(table) -> SensorEmbeddingTable:
    """Another home's table, of the same kind."""
    rows, mean, _ = normalize(np.random.default_rng(1).normal(2, 1, (3, 6)), "center")
    fields = {"keys": ["M001_ON", "M001_OFF", "a/b_ON"], "embeddings": rows, "mean": mean}
    return dataclasses.replace(table, home="house", pictures_hash="ba5", **fields)


def make_whitened(seed: int, rows: int, home: str, width: int = 6) -> SensorEmbeddingTable:
    """A home of `rows` pictures: as many directions as pictures less one, or as the width has."""
    raw = np.random.default_rng(seed).normal(3, 1, (rows, width))
    settings = {"vision_model": "clip", "output": "projected", "pictures_hash": home, "normalization": "whiten"}
    return SensorEmbeddingTable.build([f"M{i:03}_ON" for i in range(rows)], raw, home=home, **settings)


def assert_same(a: SensorEmbeddingTable, b: SensorEmbeddingTable) -> None:
    for field in dataclasses.fields(a):
        one, other = getattr(a, field.name), getattr(b, field.name)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other, field.name


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize("normalization", ["none", "center", "whiten"])
def test_what_is_saved_is_loaded(table, tmp_path, suffix, normalization):
    if normalization == "none":
        table = dataclasses.replace(table, normalization="none", mean=None, revision=None)
    elif normalization == "whiten":
        table = make_whitened(0, 4, "flat")
    table.save(tmp_path / f"table.{suffix}")
    assert_same(SensorEmbeddingTable.load(tmp_path / f"table.{suffix}"), table)
    assert os.listdir(tmp_path) == [f"table.{suffix}"]


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_equal_tables_give_equal_bytes(table, tmp_path, suffix):
    # The library writes the header's entries in a random order: six saves would agree by chance once in 9!^5.
    files = [tmp_path / f"{i}.{suffix}" for i in range(6)]
    for file in files:
        table.save(file)
    assert len({file.read_bytes() for file in files}) == 1


def test_a_model_directory_and_a_hub_repository_hold_a_table(table, house, tmp_path, monkeypatch):
    table.save(tmp_path)
    assert_same(SensorEmbeddingTable.load(str(tmp_path)), table)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for commit, revision, here in (("a" * 40, "main", table), ("b" * 40, "v1", house)):
        repository = tmp_path / "cache" / "models--lab--nest"
        snapshot, reference = repository / "snapshots" / commit, repository / "refs" / revision
        for folder in (snapshot, reference.parent):
            folder.mkdir(parents=True, exist_ok=True)
        here.save(snapshot)
        reference.write_text(commit)
    assert_same(SensorEmbeddingTable.load("lab/nest"), table)
    assert_same(SensorEmbeddingTable.load("lab/nest", revision="v1"), house)
    shutil.rmtree(tmp_path / "cache")
    for absent in ("lab/nest", "no such thing", tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="no file, no folder, no Hub repository") as error:
            SensorEmbeddingTable.load(absent)
        assert "\n" not in str(error.value)


def test_build_normalises_what_the_vision_model_gave():
    raw = np.random.default_rng(0).normal(3, 1, (4, 6))
    settings = {"home": "flat", "vision_model": "mine", "output": "cls"}
    built = SensorEmbeddingTable.build(["a_ON", "a_OFF", "b_ON", "b_OFF"], raw, **settings)
    rows, mean, _ = normalize(raw, "center")
    assert np.array_equal(built.embeddings, rows)
    assert np.array_equal(built.mean, mean)
    plain = SensorEmbeddingTable.build(built.keys, raw, **settings, normalization="none")
    assert np.array_equal(plain.embeddings, raw.astype(np.float32))


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_homes_put_together_come_apart_again(table, house, tmp_path, suffix):
    both = SensorEmbeddingTable.concatenate([table, house])
    assert both.keys[:2] + both.keys[4:] == [
        "flat/M001_OFF",
        "flat/M001_ON",
        "house/M001_ON",
        "house/M001_OFF",
        "house/a/b_ON",
    ]
    assert both.homes == ["flat", "house"]
    both.save(tmp_path / f"both.{suffix}")
    loaded = SensorEmbeddingTable.load(tmp_path / f"both.{suffix}")
    assert_same(loaded, both)
    for found, expected in zip(loaded.split(), (table, house), strict=True):
        assert_same(found, expected)
    assert_same(both.select(both.keys[4:]).split()[0], house)
    third = dataclasses.replace(house, home="hut")
    grown = SensorEmbeddingTable.concatenate([both, third])
    assert_same(grown, SensorEmbeddingTable.concatenate([table, house, third]))


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_homes_of_unlike_many_directions_put_together_come_apart_again(tmp_path, suffix):
    parts = [make_whitened(0, 4, "flat"), make_whitened(1, 9, "house"), make_whitened(2, 2, "hut")]
    assert [len(part.whitening) for part in parts] == [3, 6, 1]
    joined = SensorEmbeddingTable.concatenate(parts)
    assert joined.whitening.shape == (3, 6, 6)
    joined.save(tmp_path / f"joined.{suffix}")
    loaded = SensorEmbeddingTable.load(tmp_path / f"joined.{suffix}")
    assert_same(loaded, joined)
    for found, expected in zip(loaded.split(), parts, strict=True):
        assert_same(found, expected)
    assert_same(SensorEmbeddingTable.concatenate([SensorEmbeddingTable.concatenate(parts[:2]), parts[2]]), joined)
    raw = np.random.default_rng(3).normal(3, 1, (2, 6))
    padded, plain = (
        normalize(raw, "whiten", parts[0].mean, of)[0] for of in (joined.whitening[0], parts[0].whitening)
    )
    assert np.array_equal(padded, plain)


def test_homes_that_do_not_fit_together_are_refused_with_the_difference(table, house):
    def join(**change):
        SensorEmbeddingTable.concatenate([table, dataclasses.replace(house, **change)])

    with pytest.raises(ValueError, match=r"'flat' and 'house' do not fit.*vision_model: clip, dinov2"):
        join(vision_model="dinov2")
    with pytest.raises(ValueError, match="image_size: 224, 64; normalization: center, l2"):
        join(image_size=64, normalization="l2", mean=None)
    for name in ("flat", "", "a/b"):
        with pytest.raises(ValueError, match="a name of its own"):
            join(home=name)
    both = SensorEmbeddingTable.concatenate([table, house])
    with pytest.raises(ValueError, match="'hut/M001_ON' is of none of the homes flat, house"):
        dataclasses.replace(both, keys=["hut/M001_ON", *both.keys[1:]])


def test_compare_names_every_difference_and_nothing_else(table, house):
    assert table.compare(dataclasses.replace(table, embeddings=table.embeddings.copy())) == []
    turned = dataclasses.replace(table, embeddings=-table.embeddings)
    assert turned.compare(table)[0].startswith("cosine of the 4 shared keys: mean -1.0000, lowest -1.0000")
    order = table.select(table.keys[::-1])
    assert table.compare(order) == ["the 4 shared keys stand in another order"]
    lines = table.compare(dataclasses.replace(house, revision=None))
    assert lines[:3] == ["revision: abc123, not given", "home: flat, house", "pictures_hash: f00, ba5"]
    assert lines[3:6] == [
        "2 keys only in the first: Hall_door_ON, naïve_OPEN",
        "1 keys only in the second: a/b_ON",
        "the 2 shared keys stand in another order",
    ]
    cosine = table.embeddings[1] @ house.embeddings[0], table.embeddings[0] @ house.embeddings[1]
    assert lines[6].startswith(f"cosine of the 2 shared keys: mean {np.mean(cosine):.4f}, lowest {min(cosine):.4f}")
    narrow = SensorEmbeddingTable.build(table.keys, np.eye(4), home="flat", vision_model="clip", output="projected")
    assert table.compare(narrow)[0] == "width: 6, 4"


def test_the_safetensors_file_holds_the_promised_tensor(table, tmp_path):
    table.save(tmp_path / "table.safetensors")
    tensors = load_file(tmp_path / "table.safetensors")
    assert np.array_equal(tensors["embeddings"], table.embeddings)
    assert tensors.keys() == {"embeddings", "mean"}
    make_whitened(0, 4, "flat").save(tmp_path / "table.safetensors")
    assert load_file(tmp_path / "table.safetensors")["whitening"].shape == (3, 6)


def test_the_older_npz_form_is_read_and_written(table, tmp_path):
    path = tmp_path / "older.npz"
    np.savez(
        path,
        embeddings=table.embeddings.astype(np.float64),
        sensor_ids=np.array(["M001", "M001", "Hall_door", "naïve"]),
        states=np.array(["OFF", "ON", "ON", "OPEN"]),
        image_keys=np.array(table.keys),
        embedding_dim=6,
        model_name="openai/clip-vit-base-patch32",
    )
    older = SensorEmbeddingTable.load(path)
    assert older.keys == table.keys
    assert np.array_equal(older.embeddings, table.embeddings)
    assert (older.vision_model, older.normalization, older.mean) == ("openai/clip-vit-base-patch32", "l2", None)
    table.save(path)
    with np.load(path, allow_pickle=False) as file:
        assert file["sensor_ids"].tolist() == ["M001", "M001", "Hall_door", "naïve"]
        assert file["states"].tolist() == ["OFF", "ON", "ON", "OPEN"]


def test_select_gives_the_rows_in_the_order_asked_for(table):
    chosen = table.select(["Hall_door_ON", "M001_OFF"])
    assert np.array_equal(chosen.embeddings, table.embeddings[[2, 0]])
    assert np.array_equal(chosen.mean, table.mean)
    with pytest.raises(ValueError, match=r"home 'flat': M01_ON.*nearest: M001_ON"):
        table.select(["M001_ON", "M01_ON"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": ["a_ON", "b_ON", "c_ON", "a_ON"]}, "'a_ON' has more than one row"),
        ({"keys": ["a_ON"]}, "1 keys for 4 rows"),
        ({"embeddings": np.ones((4, 6))}, "float32"),
        ({"embeddings": np.full((4, 6), np.nan, np.float32)}, r"4 row\(s\) hold NaN.*M001_OFF"),
        ({"mean": None}, "mean vector is missing"),
        ({"mean": np.zeros(5, np.float32)}, "the mean has shape"),
        ({"mean": np.full(6, np.nan, np.float32)}, "mean vector .float32. should hold finite numbers"),
        ({"mean": np.array(["0"] * 6)}, "mean vector .<U1. should hold finite"),
        ({"normalization": "median"}, "'median' is unknown"),
        ({"normalization": "whiten"}, "whitening is missing with normalization='whiten'"),
        ({"whitening": np.ones((3, 6), np.float32)}, "whitening is there with normalization='center'"),
        (WHITEN | {"whitening": np.ones((3, 5), np.float32)}, r"shape \(3, 5\), expected \(R, 6\)"),
        (WHITEN | {"whitening": np.ones(6, np.float32)}, r"shape \(6,\), expected \(R, 6\)"),
        (WHITEN | {"whitening": np.ones((0, 6), np.float32)}, "one at least"),
        (WHITEN | {"whitening": np.ones((2, 3, 6), np.float32)}, r"shape \(2, 3, 6\)"),
        (WHITEN | {"whitening": np.full((3, 6), np.inf, np.float32)}, "whitening .float32. should hold finite"),
        (WHITEN | {"whitening": np.ones((3, 6), np.float32), "mean": None}, "mean vector is missing"),
    ],
)
def test_a_table_that_does_not_fit_together_is_refused(table, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(table, **change)


def test_files_of_another_kind_are_refused_by_name(table, tmp_path):
    bare, pickled, noise = (tmp_path / name for name in ("bare.safetensors", "pickled.npz", "noise.safetensors"))
    save_file({"embeddings": table.embeddings}, bare)
    with pytest.raises(ValueError, match=r"bare\.safetensors.*lacks keys, home"):
        SensorEmbeddingTable.load(bare)
    np.savez(pickled, embeddings=table.embeddings, image_keys=np.array(table.keys, dtype=object))
    with pytest.raises(ValueError, match=r"pickled\.npz.*allow_pickle"):
        SensorEmbeddingTable.load(pickled)
    noise.write_bytes(b"not a table at all")
    with pytest.raises(ValueError, match=r"noise\.safetensors"):
        SensorEmbeddingTable.load(noise)
    with pytest.raises(FileNotFoundError, match="embed-images"):
        SensorEmbeddingTable.load(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"\.pt: an embedding table is"):
        table.save(tmp_path / "table.pt")


def test_a_failed_save_leaves_the_old_file(table, tmp_path, monkeypatch):
    path = tmp_path / "table.safetensors"
    table.save(path)
    before = path.read_bytes()
    table.image_size = 512
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        table.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["table.safetensors"]


def test_centring_takes_away_what_all_pictures_share():
    rng = np.random.default_rng(1)
    raw = 100 + rng.normal(size=(20, 32))
    l2, _, _ = normalize(raw, "l2")
    centred, mean, _ = normalize(raw, "center")
    assert (l2 @ l2.T).min() > 0.99
    assert abs(np.median(centred @ centred.T)) < 0.2
    np.testing.assert_allclose(np.linalg.norm(centred, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(mean, raw.mean(axis=0), rtol=1e-6)
    # float32 mean against the float64 one: 1e-5 of the rows' length
    np.testing.assert_allclose(normalize(raw[3:4], "center", mean)[0], centred[3:4], atol=1e-5)
    with pytest.raises(ValueError, match="all pictures the same"):
        normalize(np.ones((3, 4)), "center")


def whitened_slowly(raw: np.ndarray) -> np.ndarray:
    """Unit rows by way of the covariance and its eigenvectors, direction after direction."""
    centred = raw - raw.mean(axis=0)
    variances, vectors = np.linalg.eigh(centred.T @ centred / len(raw))
    kept = [i for i, variance in enumerate(variances) if variance > 1e-12 * variances[-1]]
    floor = 0.1 * np.mean([variances[i] for i in kept])
    zca = sum(np.outer(vectors[:, i], vectors[:, i]) / np.sqrt(variances[i] + floor) for i in kept)
    rows = centred @ zca
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def correlated(rows: int, width: int, seed: int = 0) -> np.ndarray:
    """`(rows, width)` vectors of one plan: far from the origin, each number mixed with the others."""
    rng = np.random.default_rng(seed)
    return 20 + rng.normal(size=(rows, width)) @ rng.normal(size=(width, width))


@pytest.mark.parametrize("shape", [(60, 8), (8, 60), (2, 5), (20, 20)])
def test_whitening_is_zca_with_a_floor_under_the_variances(shape):
    raw = correlated(*shape)
    rows, mean, whitening = normalize(raw, "whiten")
    assert (rows.dtype, mean.dtype, whitening.dtype) == (np.float32,) * 3
    assert whitening.shape == (min(shape[0] - 1, shape[1]), shape[1])
    np.testing.assert_allclose(rows, whitened_slowly(raw), atol=1e-6)  # float32
    np.testing.assert_allclose(mean, raw.mean(axis=0), rtol=1e-6)


def test_whitening_decorrelates_a_homes_vectors_and_blows_no_noise_up():
    raw = correlated(400, 6)
    raw[:, 5] = 20 + 1e-4 * np.random.default_rng(1).normal(size=400)  # hardly anything but noise
    centred = raw - raw.mean(axis=0)
    root = whitening_of(centred)
    white = centred @ root.T @ root
    before, after = (np.cov(rows[:, :5].T, bias=True) for rows in (centred, white))
    variances = np.linalg.eigvalsh(np.cov(centred.T, bias=True))
    # along each direction the variance v became v / (v + floor): about 1, but for the smallest
    expected = variances / (variances + 0.1 * variances.mean())
    np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(white.T, bias=True)), expected, atol=1e-9)
    apart = ~np.eye(5, dtype=bool)
    assert np.abs(before[apart]).max() > 4
    assert np.abs(after[apart]).max() < 0.25  # what the floor leaves, of variances of about 1
    assert white[:, 5].std() < 1e-3


def test_without_a_floor_few_pictures_would_all_be_equally_far_apart_and_with_it_are_not(monkeypatch):
    raw = correlated(12, 40)
    near = raw[:1] + 0.1 * (correlated(1, 40, seed=1) - 20)  # two pictures much alike
    raw = np.concatenate([raw, near])
    rows = normalize(raw, "whiten")[0]
    likeness = rows @ rows.T
    apart = ~np.eye(len(rows), dtype=bool)
    assert sorted(np.argwhere(likeness == likeness[apart].max())[0]) == [0, 12]
    assert likeness[0, 12] > 0.5
    monkeypatch.setattr("casita.processing.sensor_embeddings.WHITENING_FLOOR", 0.0)
    rows = normalize(raw, "whiten")[0]
    np.testing.assert_allclose((rows @ rows.T)[apart], -1 / 12, atol=1e-5)


def test_a_row_added_by_the_stored_mean_and_whitening_is_as_if_it_had_been_there():
    raw = correlated(30, 8)
    rows, mean, whitening = normalize(raw, "whiten")
    added, same_mean, same_whitening = normalize(raw[3:5], "whiten", mean, whitening)
    np.testing.assert_allclose(added, rows[3:5], atol=1e-5)  # float32 statistics against the float64 ones
    assert np.array_equal(same_mean, mean)
    assert np.array_equal(same_whitening, whitening)
    with pytest.raises(ValueError, match="the table's whitening is missing"):
        normalize(raw[3:5], "whiten", mean)


def test_equal_pictures_and_a_picture_of_which_whitening_leaves_nothing_are_refused():
    with pytest.raises(ValueError, match=r"'whiten' leaves nothing.*all pictures the same"):
        normalize(np.ones((3, 4)), "whiten")
    raw = np.eye(4)[[0, 0, 1, 1]]  # pairs of equal pictures are no fault
    rows, mean, whitening = normalize(raw, "whiten")
    np.testing.assert_allclose(rows @ rows.T, [[1, 1, -1, -1]] * 2 + [[-1, -1, 1, 1]] * 2, atol=1e-6)
    with pytest.raises(ValueError, match="'whiten' leaves nothing"):
        normalize(mean[None] + np.eye(4)[2], "whiten", mean, whitening)


def test_normalising_leaves_the_vectors_that_it_was_given():
    raw = correlated(5, 4)
    for normalization in ("none", "l2", "center", "whiten"):
        normalize(raw, normalization)
        assert np.array_equal(raw, correlated(5, 4)), normalization
