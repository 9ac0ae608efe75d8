"""The embedding table: what is written is read, what is broken is told."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file

from casita.processing.sensor_embeddings import SensorEmbeddingTable, normalize


@pytest.fixture
def table() -> SensorEmbeddingTable:
    rows, mean = normalize(np.random.default_rng(0).normal(3, 1, (4, 6)), "center")
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
    rows, mean = normalize(np.random.default_rng(1).normal(2, 1, (3, 6)), "center")
    told = {"keys": ["M001_ON", "M001_OFF", "a/b_ON"], "embeddings": rows, "mean": mean}
    return dataclasses.replace(table, home="house", pictures_hash="ba5", **told)


def assert_same(a: SensorEmbeddingTable, b: SensorEmbeddingTable) -> None:
    for field in dataclasses.fields(a):
        one, other = getattr(a, field.name), getattr(b, field.name)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other, field.name


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize("plain", [False, True])
def test_what_is_saved_is_loaded(table, tmp_path, suffix, plain):
    if plain:
        table = dataclasses.replace(table, normalization="none", mean=None, revision=None)
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
    told = {"home": "flat", "vision_model": "mine", "output": "cls"}
    built = SensorEmbeddingTable.build(["a_ON", "a_OFF", "b_ON", "b_OFF"], raw, **told)
    rows, mean = normalize(raw, "center")
    assert np.array_equal(built.embeddings, rows)
    assert np.array_equal(built.mean, mean)
    plain = SensorEmbeddingTable.build(built.keys, raw, **told, normalization="none")
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


def test_compare_tells_every_difference_and_nothing_else(table, house):
    assert table.compare(dataclasses.replace(table, embeddings=table.embeddings.copy())) == []
    turned = dataclasses.replace(table, embeddings=-table.embeddings)
    assert turned.compare(table)[0].startswith("cosine of the 4 shared keys: mean -1.0000, lowest -1.0000")
    order = table.select(table.keys[::-1])
    assert table.compare(order) == ["the 4 shared keys stand in another order"]
    told = table.compare(dataclasses.replace(house, revision=None))
    assert told[:3] == ["revision: abc123, not told", "home: flat, house", "pictures_hash: f00, ba5"]
    assert told[3:6] == [
        "2 keys only in the first: Hall_door_ON, naïve_OPEN",
        "1 keys only in the second: a/b_ON",
        "the 2 shared keys stand in another order",
    ]
    cosine = table.embeddings[1] @ house.embeddings[0], table.embeddings[0] @ house.embeddings[1]
    assert told[6].startswith(f"cosine of the 2 shared keys: mean {np.mean(cosine):.4f}, lowest {min(cosine):.4f}")
    narrow = SensorEmbeddingTable.build(table.keys, np.eye(4), home="flat", vision_model="clip", output="projected")
    assert table.compare(narrow)[0] == "width: 6, 4"


def test_the_safetensors_file_holds_the_promised_tensor(table, tmp_path):
    table.save(tmp_path / "table.safetensors")
    assert np.array_equal(load_file(tmp_path / "table.safetensors")["embeddings"], table.embeddings)


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
    ("change", "told"),
    [
        ({"keys": ["a_ON", "b_ON", "c_ON", "a_ON"]}, "'a_ON' has more than one row"),
        ({"keys": ["a_ON"]}, "1 keys for 4 rows"),
        ({"embeddings": np.ones((4, 6))}, "float32"),
        ({"embeddings": np.full((4, 6), np.nan, np.float32)}, r"4 row\(s\) hold NaN.*M001_OFF"),
        ({"mean": None}, "mean vector is missing"),
        ({"mean": np.zeros(5, np.float32)}, "the mean has shape"),
        ({"normalization": "whiten"}, "'whiten' is unknown"),
    ],
)
def test_a_table_that_does_not_fit_together_is_refused(table, change, told):
    with pytest.raises(ValueError, match=told):
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
    l2, _ = normalize(raw, "l2")
    centred, mean = normalize(raw, "center")
    assert (l2 @ l2.T).min() > 0.99
    assert abs(np.median(centred @ centred.T)) < 0.2
    np.testing.assert_allclose(np.linalg.norm(centred, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(mean, raw.mean(axis=0), rtol=1e-6)
    # float32 mean against the float64 one: 1e-5 of the rows' length
    np.testing.assert_allclose(normalize(raw[3:4], "center", mean)[0], centred[3:4], atol=1e-5)
    with pytest.raises(ValueError, match="all pictures the same"):
        normalize(np.ones((3, 4)), "center")
