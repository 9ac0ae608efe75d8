"""The contents of the repositories on the Hub: a model's, a data set's, and that of image embeddings.

Each function writes a whole folder, beside and then renamed, with equal bytes for equal inputs: a second push finds
nothing changed. No file of a tree can hold code that loading runs, but for a model's own Python.

    dataset repository                                      embeddings repository
      README.md  LICENSE.md  SHA256SUMS  build.md             README.md  SHA256SUMS
      homes/<home>/home.json, layout.json, contact_sheet.png     homes/<home>/layout.json, contact_sheet.png
      image_embeddings/index.json                             image_embeddings/index.json
      image_embeddings/<home>/<vision model>.safetensors      image_embeddings/<home>/<vision model>.safetensors
      and the Parquet shards of `shards.py`

`datasets_scripts.hub.published_homes.home_from_dataset` turns the first into home folders again.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from casita import __version__
from casita.datasets_scripts.captions.join import caption_rows, embedding_rows
from casita.datasets_scripts.schema import (
    CAPTIONS,
    EVENTS,
    SCHEMA_VERSION,
    WINDOWS,
    HomeFolder,
    read_table,
    text_embeddings_schema,
    text_width,
)
from casita.datasets_scripts.windows.splits import SPLITS
from casita.files import hash_file, read_json, slug, write_json
from casita.model_cards.build_page import build_facts
from casita.model_cards.data_cards import TableEntry, render_dataset_card, render_embeddings_card
from casita.model_cards.homes import (
    home_facts,
    refuse_local_model,
    refuse_restricted,
    released_homes,
    require_summary,
    without_paths,
)
from casita.model_cards.model_tree import write_model_tree
from casita.model_cards.pages import render_page
from casita.model_cards.shards import (
    FULL,
    SHARD_BYTES,
    DatasetConfig,
    by_split,
    embeddings_table,
    like_windows,
    pictures_table,
)
from casita.model_cards.tree_files import write_checksums, written_tree
from casita.processing.sensor_embeddings import SensorEmbeddingTable

__all__ = ["write_dataset_tree", "write_embeddings_tree", "write_model_tree"]


class HomeRows(NamedTuple):
    """Rows of a home for a split of a config, whose files lie in `folder`, and those of all homes in `pattern`."""

    config: str
    pattern: str
    folder: str
    split: str
    rows: pa.Table


def write_dataset_tree(
    home: Path,
    out: Path,
    repo_id: str,
    *,
    permission: bool = False,
    recordings: bool = True,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write the tree of a dataset repository into `out`.

    Args:
        home: a home folder, or a folder of several.
        repo_id: `ORG/NAME` on the Hub, for what the card shows.
        permission: whoever may allow it has allowed that the recording is passed on.
        recordings: False leaves out events, windows, captions and text embeddings, so that nothing is refused: layout,
            pictures, image embeddings, and the commands that make the rest from the raw log.
        shard_bytes: of a shard in memory.

    Raises:
        PermissionError: a home that is not open to redistribution, without `permission`.
        FileNotFoundError, ValueError: a stage has not run, its file is of other inputs, or the leak audit is not zero.
    """
    homes = released_homes(home)
    if recordings and not permission:
        refuse_restricted(homes)
    if not permission:
        refuse_drawn_plans(homes)
    configs: dict[str, DatasetConfig] = {}
    with written_tree(out) as tree:
        build = [build_facts(each) for each in homes]
        for each in homes:
            write_home(each, tree, recordings)
            for part in home_tables(each, recordings):
                splits = (FULL,) if part.split == FULL else SPLITS
                new = DatasetConfig(part.config, part.pattern, splits, part.rows.schema)
                config = configs.setdefault(part.config, new)
                config.write(tree / part.folder, part.split, part.rows, shard_bytes)
        index = write_image_embeddings(homes, tree)
        pages = {
            "build.md": render_page("build.md.jinja", homes=build, version=__version__),
            "LICENSE.md": render_page("terms.md.jinja", homes=[home_facts(each) for each in homes]),
            "README.md": render_dataset_card(homes, list(configs.values()), index, repo_id),
        }
        for name, text in pages.items():
            (tree / name).write_text(text, encoding="utf-8")
        write_checksums(tree)
    return Path(out)


def write_embeddings_tree(home: Path, out: Path, repo_id: str) -> Path:
    """Write the tree of a repository of image embeddings into `out`: of the layouts alone, so it may always be public.

    Args: as `write_dataset_tree`.

    Raises:
        FileNotFoundError: a home without image embeddings.
    """
    homes = released_homes(home)
    with written_tree(out) as tree:
        for each in homes:
            write_home(each, tree, recordings=False)
        index = write_image_embeddings(homes, tree)
        (tree / "README.md").write_text(render_embeddings_card(homes, index, repo_id), encoding="utf-8")
        write_checksums(tree)
    return Path(out)


def refuse_drawn_plans(homes: Sequence[HomeFolder]) -> None:
    """Raise `PermissionError` for somebody's picture of a floor plan, which needs permission like a recording."""
    refuse_restricted([home for home in homes if "floor_plan" in home.layout], "floor plan picture and what shows it")


def write_home(home: HomeFolder, tree: Path, recordings: bool) -> None:
    """Write `homes/<home>/`: the layout, the plan with the sensors on it, and with the recordings also home.json."""
    folder = tree / "homes" / slug(home.name)
    folder.mkdir(parents=True)
    description = without_paths(home.description)
    plan = home.layout.get("floor_plan")
    if recordings:
        write_json(folder / "home.json", {**description, "schema_version": SCHEMA_VERSION})
        if plan is not None:
            shutil.copyfile(home.root / plan, folder / description["layout"]["floor_plan"])
    write_json(folder / "layout.json", description["layout"])
    if recordings or plan is None:
        shutil.copyfile(home.require(home.root / "contact_sheet.png", "draw"), folder / "contact_sheet.png")


def home_tables(home: HomeFolder, recordings: bool) -> Iterator[HomeRows]:
    """Yield everything that a home has as tables."""
    name = slug(home.name)
    if recordings:
        yield from _recordings(home)
    if recordings or "floor_plan" not in home.layout:
        index = read_json(home.require(home.pictures / "index.json", "draw"))
        pictures = pictures_table(home.name, home.pictures, index)
        yield HomeRows("pictures", "pictures/*", f"pictures/{name}", FULL, pictures)
    for path in files_of(home, "image_embeddings/*.safetensors"):
        table = read_image_embeddings(path)
        rows = embeddings_table(home.name, table.keys, table.embeddings)
        config = f"image_embeddings_{path.stem}"
        yield HomeRows(config, f"image_embeddings/*/{path.stem}", f"image_embeddings/{name}/{path.stem}", FULL, rows)


def _recordings(home: HomeFolder) -> Iterator[HomeRows]:
    name = slug(home.name)
    events = read_table(home.require(home.events, "read"), EVENTS)
    yield HomeRows("events", "events/*", f"events/{name}", FULL, events)
    windows = read_table(home.require(home.windows, "windows"), WINDOWS)
    for split, rows in by_split(windows, home.windows):
        yield HomeRows("windows", "windows/*", f"windows/{name}", split, rows)
    for path in files_of(home, "captions/*.parquet"):
        captions = caption_rows(home, path.stem, read_table(path, CAPTIONS))
        for split, rows in like_windows(captions, windows):
            yield HomeRows("captions", "captions/*/*", f"captions/{name}/{path.stem}", split, rows)
    for path in files_of(home, "text_embeddings/*.parquet"):
        style, _, model = path.stem.partition("--")
        refuse_local_model(require_summary(home, f"embed-text:{style}:{model}")["text_model"], path)
        vectors = embedding_rows(home, style, model, read_table(path, text_embeddings_schema(text_width(path))))
        config = f"text_embeddings_{style}_{model}"
        for split, rows in like_windows(vectors, windows):
            folder = f"text_embeddings/{name}/{path.stem}"
            yield HomeRows(config, f"text_embeddings/*/{path.stem}", folder, split, rows)


def files_of(home: HomeFolder, pattern: str) -> list[Path]:
    """Return the finished files of a home's folder that fit a pattern, by name."""
    return sorted(path for path in home.root.glob(pattern) if not path.name.startswith("."))


def read_image_embeddings(path: Path) -> SensorEmbeddingTable:
    """Read a home's table; `ValueError` when a folder of this machine made it."""
    table = SensorEmbeddingTable.load(path)
    refuse_local_model(table.vision_model, path)
    return table


def write_image_embeddings(homes: Sequence[HomeFolder], tree: Path) -> list[TableEntry]:
    """Copy every table and write `image_embeddings/index.json`, in which a reader finds the file of home and model."""
    index: list[TableEntry] = []
    for home in homes:
        paths = files_of(home, "image_embeddings/*.safetensors")
        if not paths:
            home.require(home.root / "image_embeddings", "embed-images")
        for path in paths:
            table = read_image_embeddings(path)
            name = f"image_embeddings/{slug(home.name)}/{path.name}"
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, tree / name)
            entry: TableEntry = {
                "file": name,
                "home": home.name,
                "name": path.stem,
                "vision_model": table.vision_model,
                "revision": table.revision or "",
                "output": table.output,
                "normalization": table.normalization,
                "image_size": table.image_size,
                "rows": len(table.keys),
                "width": table.width,
                "pictures_hash": table.pictures_hash,
                "sha256": hash_file(path),
            }
            index.append(entry)
    if not index:
        raise FileNotFoundError(f"{homes[0].root}: no image embeddings yet. Run: casita embed-images {homes[0].root}")
    write_json(tree / "image_embeddings" / "index.json", index)
    return index
