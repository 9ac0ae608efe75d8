"""A data set from the Hub as home folders again, which training and every stage take.

`model_cards.trees.write_dataset_tree` wrote the repository; here its shards are put together in the order in which
they were cut apart. By the same version of pyarrow the files get the bytes that they had.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from casita.datasets_scripts.captions.join import KeyedRows, join_captions
from casita.datasets_scripts.layouts.layout import check_layout
from casita.datasets_scripts.pictures.draw import write_index
from casita.datasets_scripts.schema import (
    CAPTIONS,
    EVENTS,
    WINDOWS,
    HomeFolder,
    read_metadata,
    text_embeddings_schema,
    with_numbers,
    write_table,
)
from casita.datasets_scripts.windows.splits import SPLITS
from casita.files import hash_file, locked, read_json, write_beside, write_json

SUMS = "SHA256SUMS"


def home_from_dataset(snapshot: Path, out: Path) -> Path:
    """Make `out` the home folder, or for several homes the folder of home folders, that a dataset repository holds.

    Safe to run again: an `out` that was made from the same snapshot is left as it is.

    Args:
        snapshot: folder with the repository's files, as `huggingface_hub.snapshot_download` gives it.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: no dataset repository of Casita's, or one without the recordings.
        ValueError: a file is damaged or missing, or `out` holds something else.
    """
    snapshot = Path(snapshot)
    out = Path(out)
    descriptions = sorted(snapshot.glob("homes/*/home.json"))
    if not (snapshot / SUMS).is_file() or not descriptions:
        raise FileNotFoundError(
            f"{snapshot}: no {SUMS} and homes/*/home.json, so this is no data set of Casita's, or one without the "
            "recordings: its build.md then says how to make it from the raw log."
        )
    sums = hash_file(snapshot / SUMS)
    with locked(out.parent, f"making {out.name} from a data set"):
        if out.is_dir() and any(out.iterdir()):
            made = next(iter([*out.glob("home.json"), *sorted(out.glob("*/home.json"))]), None)
            if made is None or read_json(made).get("made_from") != sums:
                raise ValueError(f"{out}: holds something else than this data set. Remove it, or name another folder.")
            return out
        check_sums(snapshot)
        with write_beside(out) as temporary:
            for path in descriptions:
                home = temporary if len(descriptions) == 1 else temporary / path.parent.name
                _restore(snapshot, path, HomeFolder(home), sums)
    return out


def check_sums(snapshot: Path) -> None:
    """Raise `ValueError` for the first file that is missing, or is not what `SHA256SUMS` says."""
    for line in (snapshot / SUMS).read_text(encoding="utf-8").splitlines():
        expected, _, name = line.partition("  ")
        path = snapshot / name
        if Path(name).is_absolute() or ".." in Path(name).parts:  # a cached file itself is a link out of the snapshot
            raise ValueError(f"{snapshot / SUMS}: {name!r} leads out of the data set. Do not use it.")
        if not path.is_file() or hash_file(path) != expected:
            what = "differs from its checksum" if path.is_file() else "is missing"
            raise ValueError(f"{path}: {what}, so the data set is not whole. Download it again.")


def _restore(snapshot: Path, description: Path, home: HomeFolder, sums: str) -> None:
    """Write one home folder, and last its home.json, with the hashes of the files as they are now."""
    name = description.parent.name
    home.root.mkdir(parents=True, exist_ok=True)
    content = read_json(description)
    _check_description(content, description)
    for path in description.parent.iterdir():
        if path.name not in ("home.json", "layout.json"):  # the contact sheet, and the plan if it is a picture
            (home.root / path.name).write_bytes(path.read_bytes())
    _restore_pictures(snapshot / "pictures" / name, home)
    for path in sorted((snapshot / "image_embeddings" / name).glob("*.safetensors")):
        home.image_embeddings(path.stem).parent.mkdir(exist_ok=True)
        home.image_embeddings(path.stem).write_bytes(path.read_bytes())
    _restore_tables(snapshot, name, home)
    for stage in content["stages"].values():
        for hashes in (stage["inputs"], stage["outputs"]):
            hashes |= {file: hash_file(home.root / file) for file in hashes if (home.root / file).exists()}
    write_json(home.root / "home.json", {**content, "made_from": sums})


def _check_description(content: Any, path: Path) -> None:
    """Raise `ValueError` for somebody's home.json that breaks the contract, or names files elsewhere."""
    if not isinstance(content, dict) or not isinstance(content.get("home"), str) or "stages" not in content:
        raise ValueError(f"{path}: no home.json of a home folder, which has home, layout and stages.")
    if violations := list(check_layout(content.get("layout"))):
        raise ValueError(f"{path}: {len(violations)} thing(s) to mend in its layout: {'; '.join(violations)}.")
    files = [file for stage in content["stages"].values() for file in (*stage["inputs"], *stage["outputs"])]
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{path}: it names {name!r}, which lies outside the home. Do not use this data set.")


def _restore_pictures(folder: Path, home: HomeFolder) -> None:
    table = _joined(folder, ["full"])
    home.pictures.mkdir()
    index = {}
    for key, image in zip(table["key"].to_pylist(), table["image"].to_pylist(), strict=True):
        index[key] = f"{quote(key, safe='')}.png"  # as `casita draw` names them, whatever the data set says
        (home.pictures / index[key]).write_bytes(image["bytes"])
    write_index(home.pictures, index)


def _restore_tables(snapshot: Path, name: str, home: HomeFolder) -> None:
    events = _joined(snapshot / "events" / name, ["full"])
    write_table(home.events, events, EVENTS, _settings(snapshot / "events" / name))
    windows = _joined(snapshot / "windows" / name, SPLITS)
    windows = windows.take(window_order(windows))
    write_table(home.windows, windows, WINDOWS, _settings(snapshot / "windows" / name))
    for folder in sorted(path for path in (snapshot / "captions" / name).glob("*") if path.is_dir()):
        _restore_rows(folder, home.captions(folder.name), windows)
    for folder in sorted(path for path in (snapshot / "text_embeddings" / name).glob("*") if path.is_dir()):
        style, _, model = folder.name.partition("--")
        _restore_rows(folder, home.text_embeddings(style, model), windows)


def window_order(windows: pa.Table) -> pa.Array:
    """Return the rows of `windows`, splits one after the other, in the order of `casita windows`: a stable sort."""
    keys = pa.table({"session": windows["session"], "start": windows["start"], "row": np.arange(len(windows))})
    return pc.sort_indices(keys, [("session", "ascending"), ("start", "ascending"), ("row", "ascending")])


def _restore_rows(folder: Path, path: Path, windows: pa.Table) -> None:
    """Write the captions or embeddings below `folder` to `path`, in the order of their windows and numbers."""
    table = _joined(folder, SPLITS)
    keys = with_numbers(table, ["window_id", "number"])
    file = KeyedRows(folder, keys, "rows", "So the data set is not whole. Download it again.")
    joined = join_captions(windows["window_id"].combine_chunks(), file, only_these=True)
    schema = CAPTIONS
    if "embedding" in table.schema.names:
        schema = text_embeddings_schema(table.schema.field("embedding").type.list_size)
    stored = [column for column in schema if column.name in table.schema.names]  # schema 1.0 stays without `number`
    write_table(path, table.take(joined.rows[0]), pa.schema(stored), _settings(folder))


def _joined(folders: Path, splits: Sequence[str]) -> pa.Table:
    """Read the rows of all shards below a folder, splits one after the other."""
    parts = [path for split in splits for path in sorted(folders.glob(f"{split}-*-of-*.parquet"))]
    if not parts:
        raise ValueError(f"{folders}: no shards, so the data set is not whole. Download it again.")
    try:
        tables = [pq.read_table(path, page_checksum_verification=True) for path in parts]
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{folders}: damaged shards ({error}). Download the data set again.") from None
    return pa.concat_tables(tables)


def _settings(folder: Path) -> dict[str, Any]:
    """Return the settings that the stage's own file had in its header."""
    return read_metadata(min(folder.glob("*.parquet")))
