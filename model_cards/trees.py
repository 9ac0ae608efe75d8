"""What lies in the repositories on the Hub: a model's, a data set's, and that of image embeddings.

Each function writes a whole folder, beside and then renamed, with equal bytes for equal inputs: a second push finds
nothing changed. No file of a tree can hold code that loading runs, but for a model's own Python.

    dataset repository                                      embeddings repository
      README.md  LICENSE.md  SHA256SUMS  build.md             README.md  SHA256SUMS
      homes/<home>/home.json, layout.json, contact_sheet.png     homes/<home>/layout.json, contact_sheet.png
      image_embeddings/index.json                             image_embeddings/index.json
      image_embeddings/<home>/<vision model>.safetensors      image_embeddings/<home>/<vision model>.safetensors
      and the Parquet shards of `shards.py`

`datasets_scripts.published_homes.home_from_dataset` turns the first into home folders again.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

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
from casita.files import hash_file, read_json, write_json
from casita.model_cards.build_page import build_facts
from casita.model_cards.data_cards import render_dataset_card, render_embeddings_card, render_page
from casita.model_cards.homes import (
    ReleasedHome,
    refuse_local_model,
    refuse_restricted,
    released_homes,
    without_paths,
)
from casita.model_cards.model_tree import write_model_tree
from casita.model_cards.shards import (
    FULL,
    SHARD_BYTES,
    SPLITS,
    Config,
    by_split,
    embeddings_table,
    like_windows,
    pictures_table,
)
from casita.model_cards.tree_files import write_checksums, written_tree

__all__ = ["write_dataset_tree", "write_embeddings_tree", "write_model_tree"]


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
    configs: dict[str, Config] = {}
    with written_tree(out) as tree:
        for each in homes:
            each.kept_stages()
            write_home(each, tree, recordings)
            for config, folder, split, table in home_tables(each, configs, recordings):
                config.write(tree / folder, split, table, shard_bytes)
        index = write_image_embeddings(homes, tree)
        built = [build_facts(each) for each in homes]
        pages = {
            "build.md": render_page("build.md.jinja", homes=built, version=__version__),
            "LICENSE.md": render_page("terms.md.jinja", homes=[each.facts for each in homes]),
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


def refuse_drawn_plans(homes: Sequence[ReleasedHome]) -> None:
    """Somebody's picture of a floor plan is no drawing from coordinates: it needs permission like a recording."""
    refuse_restricted([each for each in homes if "floor_plan" in each.layout], "floor plan picture and what shows it")


def write_home(home: ReleasedHome, tree: Path, recordings: bool) -> None:
    """Write `homes/<home>/`: the layout, the plan with the sensors on it, and with the recordings also home.json."""
    folder = tree / "homes" / home.slug
    folder.mkdir(parents=True)
    description = without_paths(home.description)
    if recordings:
        write_json(folder / "home.json", {**description, "schema_version": SCHEMA_VERSION})
        if "floor_plan" in home.layout:
            shutil.copyfile(home.root / home.layout["floor_plan"], folder / description["layout"]["floor_plan"])
    write_json(folder / "layout.json", description["layout"])
    if recordings or "floor_plan" not in home.layout:
        shutil.copyfile(home.require("contact_sheet.png", "draw"), folder / "contact_sheet.png")


def home_tables(
    home: ReleasedHome, configs: dict[str, Config], recordings: bool
) -> Iterator[tuple[Config, Path, str, Any]]:
    """`(config, folder, split, rows)` of everything that a home has as tables; new configs are added to `configs`."""

    def config_of(name: str, pattern: str, table: Any, splits: Sequence[str]) -> Config:
        patterns = {split: f"{pattern}/{split}-*.parquet" for split in splits}
        return configs.setdefault(name, Config(name, patterns, table.schema))

    if recordings:
        yield from _recordings(home, config_of)
    if recordings or "floor_plan" not in home.layout:
        index = read_json(home.require("pictures/index.json", "draw"))
        table = pictures_table(home.name, home.root / "pictures", index)
        yield config_of("pictures", "pictures/*", table, [FULL]), Path("pictures", home.slug), FULL, table
    for path in home.files("image_embeddings", ".safetensors"):
        keys, rows, _ = read_image_embeddings(path)
        table = embeddings_table(home.name, keys, rows)
        config = config_of(f"image_embeddings_{path.stem}", f"image_embeddings/*/{path.stem}", table, [FULL])
        yield config, Path("image_embeddings", home.slug, path.stem), FULL, table


def _recordings(home: ReleasedHome, config_of: Any) -> Iterator[tuple[Config, Path, str, Any]]:
    folder = HomeFolder(home.root)
    events = read_table(home.require("events.parquet", "read"), EVENTS)
    yield config_of("events", "events/*", events, [FULL]), Path("events", home.slug), FULL, events
    source = home.require("windows.parquet", "windows")
    windows = read_table(source, WINDOWS)
    config = config_of("windows", "windows/*", windows, SPLITS)
    for split, part in by_split(windows, source):
        yield config, Path("windows", home.slug), split, part
    for path in home.files("captions", ".parquet"):
        table = read_table(path, CAPTIONS)
        config = config_of("captions", "captions/*/*", table, SPLITS)
        for split, part in like_windows(caption_rows(folder, path.stem, table), windows):
            yield config, Path("captions", home.slug, path.stem), split, part
    for path in home.files("text_embeddings", ".parquet"):
        style, _, model = path.stem.partition("--")
        refuse_local_model(home.summary(f"embed-text:{style}:{model}")["text_model"], path)
        table = read_table(path, text_embeddings_schema(text_width(path)))
        config = config_of(f"text_embeddings_{style}_{model}", f"text_embeddings/*/{path.stem}", table, SPLITS)
        for split, part in like_windows(embedding_rows(folder, style, model, table), windows):
            yield config, Path("text_embeddings", home.slug, path.stem), split, part


def read_image_embeddings(path: Path) -> tuple[list[str], Any, dict[str, str]]:
    """Keys, rows `(N, D)` and header of a home's table; `ValueError` when a folder of this machine made it."""
    with safe_open(path, framework="numpy") as file:
        header = file.metadata()
        refuse_local_model(header["vision_model"], path)
        return json.loads(header["keys"]), file.get_tensor("embeddings"), header


def write_image_embeddings(homes: Sequence[ReleasedHome], tree: Path) -> list[dict[str, Any]]:
    """Copy every table and write `image_embeddings/index.json`, in which a reader finds the file of home and model."""
    index = []
    for home in homes:
        found = home.files("image_embeddings", ".safetensors")
        if not found:
            home.require("image_embeddings", "embed-images")
        for path in found:
            keys, rows, header = read_image_embeddings(path)
            name = f"image_embeddings/{home.slug}/{path.name}"
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, tree / name)
            told = {key: header[key] for key in ("vision_model", "revision", "output", "normalization")}
            entry: dict[str, Any] = {"file": name, "home": home.name, "name": path.stem, **told}
            entry |= {"image_size": int(header["image_size"]), "rows": len(keys), "width": rows.shape[1]}
            index.append(entry | {"pictures_hash": header["pictures_hash"], "sha256": hash_file(path)})
    if not index:
        raise FileNotFoundError(f"{homes[0].root}: no image embeddings yet. Run: casita embed-images {homes[0].root}")
    write_json(tree / "image_embeddings" / "index.json", index)
    return index
