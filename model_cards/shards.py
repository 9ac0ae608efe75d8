"""Parquet shards of a dataset repository, and their description in its card's YAML: configs, splits, features.

    events/<home>/full-00000-of-00001.parquet
    windows/<home>/<split>-*.parquet
    captions/<home>/<style>/<split>-*.parquet
    text_embeddings/<home>/<style>--<text model>/<split>-*.parquet
    pictures/<home>/full-*.parquet
    image_embeddings/<home>/<vision model>/full-*.parquet

The split of a caption is its window's. Events, pictures and image embeddings have the one split `full`: a recording is
not cut (what lies between two splits belongs to none), and the frozen table knows no splits.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from casita.datasets_scripts.captions.join import KeyedRows, join_captions
from casita.datasets_scripts.hub.published_homes import window_order
from casita.datasets_scripts.windows.splits import SPLITS

FULL = "full"
SHARD_BYTES = 500_000_000  # of a table in memory; what is written is smaller
ROW_GROUP = 16_384
PICTURE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])  # the Image feature of datasets


@dataclass
class DatasetConfig:
    """A config of the repository, which `load_dataset` names: the files of each split, and the features.

    `pattern` is of the folders that hold its files; `rows` and `size` (bytes in memory) are by split; `written` is in
    bytes on disk.
    """

    name: str
    pattern: str
    split_names: tuple[str, ...]
    schema: pa.Schema
    rows: dict[str, int] = field(default_factory=dict)
    size: dict[str, int] = field(default_factory=dict)
    written: int = 0

    def write(self, folder: Path, split: str, table: pa.Table, shard_bytes: int) -> None:
        """Write rows of one home for a split: `folder/<split>-00000-of-...parquet`."""
        if table.schema.remove_metadata() != self.schema.remove_metadata():
            raise ValueError(
                f"config {self.name}: {folder} has columns of other types than the home before it. Run the stages of "
                "all homes with the same models."
            )
        self.rows[split] = self.rows.get(split, 0) + len(table)
        self.size[split] = self.size.get(split, 0) + table.nbytes
        self.written += sum(path.stat().st_size for path in write_shards(folder, split, table, shard_bytes))

    def splits(self) -> list[str]:
        """Return the splits that have rows: an empty one has no file to find."""
        return [split for split in self.split_names if self.rows.get(split)]

    def data_files(self) -> dict[str, Any]:
        """Return the entry of the card's `configs`."""
        files = [{"split": split, "path": f"{self.pattern}/{split}-*.parquet"} for split in self.splits()]
        return {"config_name": self.name, "data_files": files} | ({"default": True} if self.name == "windows" else {})

    def info(self) -> dict[str, Any]:
        """Return the entry of the card's `dataset_info`."""
        splits = [{"name": s, "num_bytes": self.size[s], "num_examples": self.rows[s]} for s in self.splits()]
        return {
            "config_name": self.name,
            "features": [feature(column) for column in self.schema],
            "splits": splits,
            "download_size": self.written,
            "dataset_size": sum(self.size.values()),
        }


def feature(column: pa.Field) -> dict[str, Any]:
    """Describe a column as the YAML of datasets does."""
    kind = column.type
    if kind == PICTURE:
        return {"name": column.name, "dtype": "image"}
    if pa.types.is_fixed_size_list(kind):
        return {"name": column.name, "list": _scalar(kind.value_type), "length": kind.list_size}
    if pa.types.is_list(kind):
        return {"name": column.name, "list": _scalar(kind.value_type)}
    return {"name": column.name, "dtype": _scalar(kind)}


def _scalar(kind: pa.DataType) -> str:
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def write_shards(folder: Path, split: str, table: pa.Table, shard_bytes: int = SHARD_BYTES) -> list[Path]:
    """Write the rows of `table` in order, in as few files of like length as `shard_bytes` allows; none for no rows."""
    needed = -(-table.nbytes // shard_bytes)  # rounded up
    count = min(max(1, needed), len(table))
    bounds = np.linspace(0, len(table), count + 1).astype(int).tolist() if count else []
    paths = []
    for number, (first, last) in enumerate(pairwise(bounds)):
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{split}-{number:05d}-of-{count:05d}.parquet")
        pq.write_table(
            table.slice(first, last - first),
            paths[-1],
            compression="zstd",
            row_group_size=ROW_GROUP,
            use_dictionary=[leaf for column in table.schema for leaf in _text_leaves(column)],  # it would swell floats
            write_page_checksum=True,
            write_page_index=True,  # the Hub's viewer looks up a page without reading the group
        )
    return paths


def _text_leaves(column: pa.Field) -> list[str]:
    """Return the Parquet paths below a column that hold text."""
    if pa.types.is_list(column.type):
        return [f"{column.name}.list.element"] * pa.types.is_string(column.type.value_type)
    return [column.name] * pa.types.is_string(column.type)


def by_split(windows: pa.Table, path: Path) -> Iterator[tuple[str, pa.Table]]:
    """Yield the windows of each split; `ValueError` when session and start would not give their order back."""
    parts = [(split, windows.filter(pc.equal(windows["split"], split))) for split in SPLITS]
    if sum(len(part) for _, part in parts) < len(windows):
        raise ValueError(f"{path}: a split that is none of {', '.join(SPLITS)}. Run: casita windows")
    back = pa.concat_tables([part for _, part in parts])
    if not back["window_id"].take(window_order(back)).equals(windows["window_id"]):
        raise ValueError(f"{path}: its rows are not in the order of session and start. Run: casita windows")
    yield from parts


def like_windows(file: KeyedRows, windows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield the rows of captions or embeddings by their window's split, in the order of windows and numbers.

    Raises:
        ValueError: they are not those of all `windows` and of no others.
    """
    joined = join_captions(windows["window_id"].combine_chunks(), file, only_these=True)
    split = np.repeat(windows["split"].to_numpy(), joined.counts)
    for name in SPLITS:
        yield name, file.table.take(joined.rows[0][split == name])


def pictures_table(home: str, folder: Path, index: dict[str, str]) -> pa.Table:
    """Return a row a picture, the PNG inside; the schema says to datasets that it is an image.

    Args:
        folder: of the pictures.
        index: key -> file.
    """
    images = [{"bytes": (folder / name).read_bytes(), "path": name} for name in index.values()]
    table = pa.table({**key_columns(home, list(index)), "image": pa.array(images, PICTURE)})
    features = {name: {"dtype": "string", "_type": "Value"} for name in table.column_names[:-1]}
    described = {"info": {"features": {**features, "image": {"_type": "Image"}}}}
    return table.replace_schema_metadata({"huggingface": json.dumps(described)})


def embeddings_table(home: str, keys: Sequence[str], rows: np.ndarray) -> pa.Table:
    """Return a row a sensor state with its vector, of `rows` `(N, D)` float32."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    return pa.table({**key_columns(home, keys), "embedding": vectors})


def key_columns(home: str, keys: Sequence[str]) -> dict[str, pa.Array]:
    """Split `"M001_ON"` into columns key, sensor and state: sensors may hold underscores, states never do."""
    columns = {
        "home": [home] * len(keys),
        "key": list(keys),
        "sensor": [key.rpartition("_")[0] for key in keys],
        "state": [key.rpartition("_")[2] for key in keys],
    }
    return {name: pa.array(values, pa.string()) for name, values in columns.items()}
