"""A small home folder made by hand: what `casita build` leaves, with contents that a test can recompute."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from casita.datasets_scripts.schema import (
    CAPTIONS,
    WINDOWS,
    HomeFolder,
    read_metadata,
    text_embeddings_schema,
    text_width,
    with_numbers,
    write_table,
)
from casita.files import hash_file, write_json
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.configs.train_config import TrainConfig

ROOMS = {"M1": "Kitchen", "M2": "Kitchen", "M3": "Bedroom", "M4": "Bedroom", "D1": "Hall", "M_5": "Hall"}
KEYS = [f"{sensor}_{state}" for sensor in ROOMS for state in (("OPEN", "CLOSE") if sensor == "D1" else ("ON", "OFF"))]
LAYOUT = {
    "home": "toy",
    "size": [200, 100],
    "sensors": {
        sensor: {"x": 20 + 30 * i, "y": 10 + 15 * i, "room": room, "type": "door" if sensor == "D1" else "motion"}
        for i, (sensor, room) in enumerate(ROOMS.items())
    },
}
COUNTS = {"train": 60, "validation": 20, "test": 10}
WIDTH = 16  # of the text embeddings


def caption_vector(caption: str) -> np.ndarray:
    """The unit vector `(WIDTH,)` of a caption; it follows from the text alone."""
    vector = np.random.default_rng(list(caption.encode())).normal(size=WIDTH)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def write_captions(home: HomeFolder, rows: list[tuple[str, str]]) -> None:
    """Write `(window_id, caption)` pairs as captions and as embeddings, in this order, which numbers them."""
    ids, texts = [list(column) for column in zip(*rows, strict=True)]
    keys = with_numbers(pa.table({"window_id": ids, "style": ["narrative"] * len(ids)}), CAPTIONS.names[:3])
    write_table(home.captions("narrative"), keys.append_column("caption", pa.array(texts)), CAPTIONS)
    vectors = pa.array(np.concatenate([caption_vector(text) for text in texts]))
    table = keys.append_column("embedding", pa.FixedSizeListArray.from_arrays(vectors, WIDTH))
    write_table(home.text_embeddings("narrative", "minilm"), table, text_embeddings_schema(WIDTH))


def without_numbers(home: HomeFolder) -> HomeFolder:
    """Rewrite the captions and text embeddings of a home as release 0.1 wrote them: schema 1.0, no `number`."""
    for path in [*home.root.glob("captions/*.parquet"), *home.root.glob("text_embeddings/*.parquet")]:
        schema = CAPTIONS if path.parent.name == "captions" else text_embeddings_schema(text_width(path))
        old_schema = schema.remove(schema.get_field_index("number"))
        header = read_metadata(path) | {"schema_version": "1.0"}
        write_table(path, pq.read_table(path), old_schema, header)
    return rehash(home, schema_version="1.0")


def rehash(home: HomeFolder, **changed: Any) -> HomeFolder:
    """Make home.json's stages those that left the files as they are now, with other top-level keys `changed`."""
    description = {**home.description, **changed}
    for stage in description.get("stages", {}).values():
        for files in (stage["inputs"], stage["outputs"]):
            files.update({name: hash_file(home.root / name) for name in files if (home.root / name).exists()})
    write_json(home.root / "home.json", description)
    return home


def make_home(root: Path, seed: int = 0, name: str = "toy") -> HomeFolder:
    """Windows of 3 to 8 events; each stays in one room, which its caption names, so captions repeat."""
    rng = np.random.default_rng(seed)
    home = HomeFolder(root)
    home.describe(home=name, layout={**LAYOUT, "home": name})
    rows: list[dict[str, Any]] = []
    captions = []
    for i, split in enumerate(np.repeat(list(COUNTS), list(COUNTS.values()))):
        room = str(rng.choice(sorted(set(ROOMS.values()))))
        keys = rng.choice([key for key in KEYS if ROOMS[key.rsplit("_", 1)[0]] == room], size=rng.integers(3, 9))
        start = np.datetime64("2024-01-01T08:00:00", "us") + np.timedelta64(i, "h")
        seconds = np.cumsum(rng.integers(0, 60, size=len(keys))).astype(np.float32)
        seconds -= seconds[0]
        row = {"window_id": f"{name}/s/fixed/{i}", "home": name, "session": "s", "split": str(split), "start": start}
        row |= {"end": start + np.timedelta64(1, "h"), "sensor_keys": keys.tolist(), "seconds": seconds.tolist()}
        rows.append(row | {"activity": f"in_{room}" if i % 3 else None, "activity_share": 1.0})
        # Two of three windows share their caption with others of the room.
        captions.append((row["window_id"], f"Somebody is in the {room}{f', time {i}' if i % 3 == 0 else ''}."))
    columns = {name: [row[name] for row in rows] for name in WINDOWS.names}
    write_table(home.windows, pa.table(columns, schema=WINDOWS), WINDOWS)
    settings = {"length": 8, "overlap": 0.5, "max_gap_min": 30.0}
    home.record("windows", settings, inputs=[], outputs=[home.windows], summary={"levels": {}})
    write_captions(home, captions)
    write_pictures(home, name)
    return home


def write_pictures(home: HomeFolder, name: str = "toy", keys: list[str] = KEYS) -> None:
    """The table of picture embeddings, of home `name`."""
    rows = np.random.default_rng(1).normal(size=(len(keys), 12)).astype(np.float32)
    SensorEmbeddingTable(
        keys=keys,
        embeddings=rows / np.linalg.norm(rows, axis=1, keepdims=True),
        home=name,
        vision_model="pixels",
        revision=None,
        output="pixels",
        image_size=32,
        pictures_hash="0" * 64,
        normalization="l2",
        mean=None,
    ).save(home.image_embeddings("pixels"))


def tiny(home: HomeFolder, out: Path, **settings: Any) -> TrainConfig:
    """A two-layer, 32-wide run over `home`."""
    defaults: dict[str, Any] = {
        "vision_model": "pixels",
        "text_model": "minilm",
        "preset": "tiny",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "projection_dim": 16,
        "batch_size": 12,
        "epochs": 2,
        "eval_every": 4,
        "save_every": 4,
        "log_every": 1,
        "tracker": None,
        "cpu": True,
    }
    return TrainConfig(data=str(home.root), out=str(out), **(defaults | settings))
