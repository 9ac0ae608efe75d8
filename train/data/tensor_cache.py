"""Windows and text embeddings turned into flat arrays once, then memory-mapped at every start.

    HOME/tensors/windows-<split>-<key>/            codes, seconds, starts, id_bytes, id_starts (.npy), keys.json
    HOME/tensors/<style>--<text>-<split>-<key>/    texts, caption_ids, caption_rows, caption_starts (.npy)

The key is a hash of the files that the arrays were made from, so a folder that is there is current, and one of another
key is old and removed. Rows of a table are not stored: a code is an index into `keys.json`, so one cache serves every
vision model. Where the home folder cannot be written, `tensors/` lies in the run folder.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock

from casita.datasets_scripts.schema import CAPTIONS, read_table, slug, text_embeddings_schema
from casita.files import hash_file, hash_json, read_json, write_beside, write_json
from casita.train.data.home_arrays import (
    EVENT_COLUMNS,
    HomeArrays,
    SplitFiles,
    Strings,
    distinct,
    encode_events,
    flat_strings,
    hash_texts,
    matrix,
    starts_of,
)

FORMAT = 2  # raised when the files' meaning changes
CHUNK = 16_384  # windows, captions or embeddings in memory at once while a cache is built


def load_arrays(files: SplitFiles, spare: Path) -> HomeArrays:
    """Return the windows and embeddings of `files`, memory-mapped; built first when not there or not current.

    Args:
        spare: the folder for `tensors/` where the home folder cannot be written.

    Raises:
        FileNotFoundError: a stage has not run. ValueError: captions or embeddings of other windows.
    """
    root = _root(files, spare)
    windows_key = hash_json([FORMAT, content_hash(files.windows)])
    events = _cached(root, f"windows-{files.split}", windows_key, lambda out: _write_windows(files, out))
    opened = {name: _open(events / f"{name}.npy") for name in ("codes", "seconds", "starts")}
    ids = Strings(_open(events / "id_bytes.npy"), _open(events / "id_starts.npy"))

    texts_key = hash_json([windows_key, content_hash(files.captions), content_hash(files.vectors)])
    name = f"{files.style}--{slug(files.text_model)}-{files.split}"
    texts = _cached(root, name, texts_key, lambda out: _write_texts(files, ids, out))
    opened |= {n: _open(texts / f"{n}.npy") for n in ("texts", "caption_ids", "caption_rows", "caption_starts")}
    return HomeArrays(home=files.folder.name, keys=read_json(events / "keys.json"), ids=ids, **opened)


def content_hash(path: Path) -> str:
    """Return `hash_file`, computed once in a process for a file that does not change."""
    status = path.stat()
    return _content_hash(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _content_hash(path: Path, size: int, mtime_ns: int) -> str:
    return hash_file(path)


def _root(files: SplitFiles, spare: Path) -> Path:
    """Return the folder of a home's cache."""
    home = files.folder.root / "tensors"
    try:
        home.mkdir(exist_ok=True)
        writable = os.access(home, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
    except OSError:
        writable = False
    return home if writable else spare / "tensors" / files.folder.root.name


def _cached(root: Path, name: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the folder of this name and key, built if it is not there; those of other keys are removed."""
    folder = root / f"{name}-{key[:16]}"
    if not folder.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):  # other ranks, other runs: one builds, the others wait for it
            if not folder.is_dir():
                with write_beside(folder) as temporary:
                    temporary.mkdir()
                    build(temporary)
        for old in root.glob(f"{name}-{'[0-9a-f]' * 16}"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)  # another run may be removing it just now
    return folder


def _open(path: Path) -> np.ndarray:
    """Map a stored array copy-on-write: writable for torch, and the file stays as it is."""
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))


class NpyWriter:
    """An .npy file that grows row by row: its header is written again at the end, when the length is known."""

    def __init__(self, path: Path, dtype: Any):
        self.file = path.open("wb")
        self.dtype = np.dtype(dtype)
        self.rows = 0
        self._header()

    def __enter__(self) -> "NpyWriter":
        return self

    def append(self, array: np.ndarray) -> None:
        """Add the values of a one-dimensional array."""
        self.file.write(np.ascontiguousarray(array, self.dtype).data)
        self.rows += len(array)

    def __exit__(self, *_: object) -> None:
        self.file.seek(0)
        self._header()  # as long as before: NumPy leaves room for the first axis to grow
        self.file.close()

    def _header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.rows,)}
        np.lib.format.write_array_header_1_0(self.file, header)


def _write_windows(files: SplitFiles, out: Path) -> None:
    """Write the events and ids of the split's windows, a chunk at a time."""
    key_codes: dict[str, int] = {}
    lengths = [np.zeros(1, np.int64)]  # the first start is 0
    id_lengths = [np.zeros(1, np.int64)]
    with (
        NpyWriter(out / "codes.npy", np.int32) as code_file,
        NpyWriter(out / "seconds.npy", np.float32) as second_file,
        NpyWriter(out / "id_bytes.npy", np.uint8) as id_file,
    ):
        for windows in read_split(files.windows, files.split, EVENT_COLUMNS):
            codes, seconds, length = encode_events(windows, key_codes)
            ids = flat_strings(windows["window_id"])
            code_file.append(codes)
            second_file.append(seconds)
            id_file.append(ids.data)
            lengths.append(length)
            id_lengths.append(np.diff(ids.starts))
    np.save(out / "starts.npy", np.cumsum(np.concatenate(lengths)))
    np.save(out / "id_starts.npy", np.cumsum(np.concatenate(id_lengths)))
    write_json(out / "keys.json", list(key_codes))


def read_split(path: Path, split: str, columns: list[str]) -> Iterator[pa.Table]:
    """Yield the windows of one split, `CHUNK` rows at a time; row groups without any are not read."""
    for batch in read_batches(path, columns, lambda group: _may_hold(group, split)):
        yield pa.Table.from_batches([batch]).filter(pc.field("split") == split)


def read_batches(
    path: Path, columns: list[str], wanted: Callable[[pq.RowGroupMetaData], bool] = lambda group: True
) -> Iterator[pa.RecordBatch]:
    """Yield the columns of a Parquet file, `CHUNK` rows at a time, of the row groups that are wanted.

    Row group by row group: asked for all of them, Arrow reads far ahead, to the whole file.
    """
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            if wanted(file.metadata.row_group(group)):
                yield from file.iter_batches(CHUNK, row_groups=[group], columns=columns)


def read_keys(path: Path) -> list[str]:
    """Return the keys of all windows, in alphabetic order."""
    keys: set[str] = set()
    for batch in read_batches(path, ["sensor_keys"]):
        keys.update(pc.unique(batch.column(0).flatten()).to_pylist())
    return sorted(keys)


def _may_hold(group: pq.RowGroupMetaData, split: str) -> bool:
    """Return whether the statistics of a row group allow a window of `split`."""
    columns = [group.column(i) for i in range(group.num_columns)]
    limits = next(column.statistics for column in columns if column.path_in_schema == "split")
    return limits is None or not limits.has_min_max or limits.min <= split <= limits.max


def _write_texts(files: SplitFiles, ids: Strings, out: Path) -> None:
    """Write the distinct captions' embeddings and which window has which; embeddings a chunk at a time."""
    width = files.text_width
    captions = read_table(files.captions, CAPTIONS, ["window_id", "number"])
    vectors = read_table(files.vectors, text_embeddings_schema(width), ["window_id", "number"])
    joined = files.join(ids.arrow(), captions, vectors)
    caption_order, vector_order = joined.rows
    chunks = [hash_texts(batch.column(0)) for batch in read_batches(files.captions, ["caption"])]
    hashes = np.concatenate([np.zeros(0, np.int64), *chunks])[caption_order]
    first, rows = distinct(hashes)
    np.save(out / "caption_ids.npy", hashes[first])
    np.save(out / "caption_rows.npy", rows)
    np.save(out / "caption_starts.npy", starts_of(joined.counts))
    _write_vectors(files.vectors, vector_order[first], width, out / "texts.npy")


def _write_vectors(path: Path, rows: np.ndarray, width: int, out: Path) -> None:
    """Write the embeddings in the rows `(U,)` of the file `path` as an .npy `(U, width)`, in this order."""
    texts: Any = np.lib.format.open_memmap(out, "w+", np.float32, shape=(len(rows), width))
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    first = 0  # row of the batch in the file
    for batch in read_batches(path, ["embedding"]):
        in_batch = slice(*np.searchsorted(ascending, [first, first + len(batch)]))
        texts[order[in_batch]] = matrix(batch.column(0), width)[ascending[in_batch] - first]
        first += len(batch)
    texts.flush()
