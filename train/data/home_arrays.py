"""Flat arrays of the windows of one split of one home: what the tensor cache maps and what a stream holds.

Letters: `N` windows, `E` their events, `C` their captions, `U` distinct captions, `T` width of the text embeddings.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from casita.datasets_scripts.captions.join import JoinedRows, caption_rows, embedding_rows, join_captions
from casita.datasets_scripts.schema import (
    CAPTIONS,
    WINDOWS,
    HomeFolder,
    check_columns,
    text_embeddings_schema,
    text_width,
)

EVENT_COLUMNS = ["window_id", "split", "sensor_keys", "seconds"]


@dataclass(frozen=True)
class Strings:
    """An array of `N` strings as bytes: `data` uint8 (UTF-8) and `starts` `(N + 1,)` int64. Indexing gives `str`."""

    data: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, rows: Any) -> Any:
        """Return the string of an `int`; else an array of the strings that NumPy would choose by `rows`."""
        chosen = np.arange(len(self))[rows]
        strings = self.arrow().take(pa.array(np.atleast_1d(chosen))).to_numpy(zero_copy_only=False)
        return strings if np.ndim(chosen) else strings[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrow().to_pylist())

    def arrow(self) -> pa.LargeStringArray:
        """Return the same as Arrow, without a copy."""
        return pa.LargeStringArray.from_buffers(len(self), pa.py_buffer(self.starts), pa.py_buffer(self.data))


def flat_strings(column: pa.ChunkedArray) -> Strings:
    """Turn a string column into `Strings`."""
    array = pa.concat_arrays(column.cast(pa.large_string()).chunks or [pa.array([], pa.large_string())])
    _, starts, data = array.buffers()
    starts = np.frombuffer(starts, np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(data, np.uint8)[starts[0] : starts[-1]] if data else np.zeros(0, np.uint8)
    return Strings(data, starts - starts[0])


def join_strings(parts: Sequence[Strings]) -> Strings:
    """Concatenate the strings of all parts; of one part, return itself."""
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    return Strings(np.concatenate([part.data for part in parts]), starts_of(lengths))


@dataclass(frozen=True)
class HomeArrays:
    """Arrays of `N` windows of one home with their captions' embeddings, in memory or memory-mapped.

    Window i has the events `starts[i]:starts[i + 1]`, each with a code, which is an index into `keys`, and the seconds
    since the window's start. Its captions are the rows `caption_rows[caption_starts[i]:caption_starts[i + 1]]` of
    `texts` `(U, T)`; equal captions, in whichever home, have equal `caption_ids` `(U,)`.
    """

    home: str
    keys: list[str]
    codes: np.ndarray  # (E,) int32
    seconds: np.ndarray  # (E,) float32
    starts: np.ndarray  # (N + 1,) int64
    ids: Strings
    texts: np.ndarray  # (U, T) float32
    caption_ids: np.ndarray  # (U,) int64
    caption_rows: np.ndarray  # (C,) int32
    caption_starts: np.ndarray  # (N + 1,) int64

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, windows: np.ndarray, captions: np.ndarray) -> "HomeArrays":
        """Copy the rows `windows` `(n,)`, each with the one caption in `captions` `(n,)`."""
        starts, event = flat_ranges(self.starts[windows], self.starts[windows + 1])
        id_starts, byte = flat_ranges(self.ids.starts[windows], self.ids.starts[windows + 1])
        rows = np.arange(len(windows), dtype=np.int64)
        return HomeArrays(
            home=self.home,
            keys=self.keys,
            codes=self.codes[event],
            seconds=self.seconds[event],
            starts=starts,
            ids=Strings(self.ids.data[byte], id_starts),
            texts=self.texts[captions],
            caption_ids=self.caption_ids[captions],
            caption_rows=rows.astype(np.int32),
            caption_starts=np.append(rows, len(windows)),
        )


def flat_ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lay `n` ranges, from `first` to before `last`, end to end: their starts `(n + 1,)`, and all their numbers."""
    starts = starts_of(last - first)
    return starts, np.arange(starts[-1]) + np.repeat(first - starts[:-1], last - first)


@dataclass(frozen=True)
class SplitFiles:
    """Files of one home that training reads: the windows of `split` and their captions of `style` by `text_model`.

    They are checked when they are asked for: `FileNotFoundError` names the stage to run, `ValueError` a column.
    """

    folder: HomeFolder
    split: str
    style: str
    text_model: str

    @property
    def windows(self) -> Path:
        """Return the path of the windows."""
        path = self.folder.require(self.folder.windows, "windows")
        return check_columns(path, WINDOWS, EVENT_COLUMNS)

    @property
    def captions(self) -> Path:
        """Return the path of the captions."""
        path = self.folder.require(self.folder.captions(self.style), f"caption --caption-style {self.style}")
        return check_columns(path, CAPTIONS)

    @property
    def vectors(self) -> Path:
        """Return the path of the text embeddings."""
        command = f"embed-text --text-model {self.text_model} --caption-style {self.style}"
        path = self.folder.require(self.folder.text_embeddings(self.style, self.text_model), command)
        return check_columns(path, text_embeddings_schema(text_width(path)))

    @property
    def text_width(self) -> int:
        """Return T."""
        return text_width(self.vectors)

    def join(self, window_ids: pa.Array, captions: pa.Table, vectors: pa.Table) -> JoinedRows:
        """Find the rows of `captions` and of `vectors`, read from these files, that belong to the windows."""
        return join_captions(
            window_ids,
            caption_rows(self.folder, self.style, captions),
            embedding_rows(self.folder, self.style, self.text_model, vectors),
        )


def encode_events(windows: pa.Table, codes: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Encode a windows table: codes `(E,)` int32, seconds `(E,)` float32 and lengths `(N,)` int64.

    `codes` maps the keys known so far to their code; keys that come for the first time are added.
    """
    if not len(windows):
        return np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.int64)
    keys, seconds = (one_array(windows[name]) for name in ("sensor_keys", "seconds"))
    lengths = keys.value_lengths().to_numpy()
    if not np.array_equal(lengths, seconds.value_lengths().to_numpy()):
        raise ValueError("windows: some have another number of seconds than of sensor_keys. Run: casita windows")
    encoded = keys.flatten().dictionary_encode()
    code = [codes.setdefault(key, len(codes)) for key in encoded.dictionary.to_pylist()]
    return np.array(code, np.int32)[encoded.indices.to_numpy()], seconds.flatten().to_numpy(), lengths.astype(np.int64)


def hash_texts(texts: pa.Array) -> np.ndarray:
    """Hash texts to `(n,)` int64, 64 bits of BLAKE2b, so that equal texts are known in any file, process and run.

    Two of ten million different texts share a number with a chance of 3e-6.
    """
    encoded = texts.dictionary_encode()
    digests = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in encoded.dictionary.to_pylist())
    return np.frombuffer(digests, "<i8")[encoded.indices.to_numpy()]


def distinct(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the first place of each different number `(U,)`, ascending; and for each of `hashes` its rank there."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(first), np.int32)
    rank[order] = np.arange(len(first))
    return first[order], rank[inverse]


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """Turn `(N,)` lengths into `(N + 1,)` starts."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """Return a column in one piece; copied only if it is in several (`combine_chunks` copies always)."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def matrix(column: pa.Array, width: int) -> np.ndarray:
    """Return a fixed-size list column as `(n, width)` float32."""
    return column.flatten().to_numpy().reshape(-1, width)
