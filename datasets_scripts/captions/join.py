"""The one join of windows, captions and text embeddings: by window id and number, whatever the order of the rows."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from casita.datasets_scripts.schema import HomeFolder
from casita.processing.event_windows import places_in_group


class KeyedRows(NamedTuple):
    """Rows of a file of captions or of text embeddings; of `table` the columns `window_id` and `number` are read."""

    path: Path
    table: pa.Table
    content: str  # of a row, in the plural, for messages
    remedy: str  # the sentence that says what to do about a wrong file


class JoinedRows(NamedTuple):
    """Row numbers of `C` captions of `N` windows, window after window and by number."""

    rows: tuple[np.ndarray, ...]  # (C,) of each file, the places of these captions
    counts: np.ndarray  # (N,) captions of each window

    @property
    def first(self) -> np.ndarray:
        """Return the places `(N,)` of each window's number 0 among the `C` captions."""
        return np.cumsum(self.counts) - self.counts


def caption_rows(home: HomeFolder, style: str, table: pa.Table) -> KeyedRows:
    """Name `table` as rows of the home's captions of `style`."""
    remedy = f"Run: casita caption {home.root} --caption-style {style}"
    return KeyedRows(home.captions(style), table, "captions", remedy)


def embedding_rows(home: HomeFolder, style: str, text_model: str, table: pa.Table) -> KeyedRows:
    """Name `table` as rows of the home's text embeddings of `style` by `text_model`."""
    remedy = f"Run: casita embed-text {home.root} --caption-style {style} --text-model {text_model}"
    return KeyedRows(home.text_embeddings(style, text_model), table, "text embeddings", remedy)


def join_captions(window_ids: pa.Array, *files: KeyedRows, only_these: bool = False) -> JoinedRows:
    """Find the rows of the windows `window_ids` `(N,)` in each of `files`: captions, their embeddings, or both.

    Rows of other windows are left out, or refused with `only_these`.

    Raises:
        ValueError: a window without rows in the first file; one with fewer or more in another file than in the first;
            numbers of a window that are not 0, 1, ..., each once. It names the file and the first such window.
    """
    found = [_rows_by_window(window_ids, file, only_these) for file in files]
    counts = found[0][1]
    if not counts.all():
        missing = np.flatnonzero(counts == 0)
        first = window_ids[int(missing[0])].as_py()
        raise ValueError(
            f"{files[0].path}: {len(missing)} of {len(window_ids)} windows have no {files[0].content}, the first "
            f"{first!r}. {files[0].remedy}"
        )
    for file, (_, other_counts) in zip(files[1:], found[1:], strict=True):
        differing = np.flatnonzero(other_counts != counts)
        if len(differing):
            first = int(differing[0])
            raise ValueError(
                f"{file.path}: {len(differing)} of {len(window_ids)} windows have other {file.content} than "
                f"{files[0].content}; the first, {window_ids[first].as_py()!r}, has {counts[first]} "
                f"{files[0].content} and {other_counts[first]} {file.content}. {file.remedy}"
            )
    return JoinedRows(tuple(rows for rows, _ in found), counts)


def _rows_by_window(window_ids: pa.Array, file: KeyedRows, only_these: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the file's rows `(C,)` of these windows, by window and number, and how many each window has `(N,)`."""
    ids = file.table["window_id"]
    window = pc.fill_null(pc.index_in(ids.cast(window_ids.type), value_set=window_ids), -1).to_numpy()
    number = file.table["number"].to_numpy()
    known = np.flatnonzero(window >= 0)
    if only_these and len(known) < len(window):
        stranger = ids[int(np.argmin(window))].as_py()
        raise ValueError(f"{file.path}: window {stranger!r} is none of the home's. {file.remedy}")
    rows = known[np.lexsort((number[known], window[known]))]
    counts = np.bincount(window[rows], minlength=len(window_ids))
    wrong = np.flatnonzero(number[rows] != places_in_group(counts))
    if len(wrong):
        first = window[rows[wrong[0]]]
        numbers = number[rows[window[rows] == first]].tolist()
        raise ValueError(
            f"{file.path}: window {window_ids[int(first)].as_py()!r} has {file.content} of the numbers {numbers}, "
            f"expected 0 to {len(numbers) - 1}, each once. {file.remedy}"
        )
    return rows, counts
