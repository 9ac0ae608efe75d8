"""The data contract: Arrow schemas of every table, and the home folder in which the stages meet.

A home folder (`DIR` on the command line) holds

    home.json                                   name, layout, and for each stage its settings, input and output hashes
    events.parquet                              EVENTS, sorted by session and timestamp
    windows.parquet                             WINDOWS
    pictures/<KEY>.png, contact_sheet.png       a picture for each sensor state
    image_embeddings/<vision>.safetensors       one row for each sensor state
    captions/<style>.parquet                    CAPTIONS
    text_embeddings/<style>--<text>.parquet     text_embeddings_schema(D)

A data set of several homes is a folder of such folders (`home_folders`).

A *key* is a sensor in a state, `"M001_ON"`; sensors may hold underscores, states never do.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, NotRequired, ParamSpec, TypedDict, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from casita.datasets_scripts.layouts.layout import Layout, empty_layout
from casita.files import hash_file, locked, read_json, slug, write_beside, write_json

SCHEMA_VERSION = "1.1"  # 1.0: captions and text embeddings without `number`
ROW_GROUP = 16_384  # windows, captions or embeddings that a streamed training reads, and holds, at a time

EVENTS = pa.schema(
    [
        pa.field("home", pa.string(), nullable=False),
        pa.field("session", pa.string(), nullable=False),  # one recording; windows never cross it
        pa.field("timestamp", pa.timestamp("us"), nullable=False),  # local wall-clock time of the home
        pa.field("sensor", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),  # normalised; a numeric reading keeps its text
        pa.field("value", pa.float32()),  # the reading of a numeric sensor, else null
        pa.field("activity", pa.string()),  # the most recently opened one
        pa.field("activities", pa.list_(pa.string()), nullable=False),  # all open ones, in order of opening
    ]
)
WINDOWS = pa.schema(
    [
        pa.field("window_id", pa.string(), nullable=False),  # home/session/strategy/start
        pa.field("home", pa.string(), nullable=False),
        pa.field("session", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # train | validation | test
        pa.field("start", pa.timestamp("us"), nullable=False),
        pa.field("end", pa.timestamp("us"), nullable=False),
        pa.field("sensor_keys", pa.list_(pa.string()), nullable=False),  # "M001_ON"
        pa.field("seconds", pa.list_(pa.float32()), nullable=False),  # since `start`
        pa.field("activity", pa.string()),  # majority of the events; null = unlabelled
        pa.field("activity_share", pa.float32(), nullable=False),  # share of the events with that label, 0..1
    ]
)
CAPTIONS = pa.schema(
    [
        pa.field("window_id", pa.string(), nullable=False),
        pa.field("style", pa.string(), nullable=False),
        pa.field("number", pa.int32(), nullable=False),  # which of the window's captions, from 0
        pa.field("caption", pa.string(), nullable=False),
    ]
)


def text_embeddings_schema(width: int) -> pa.Schema:
    """Return the schema of a file of text embeddings: `CAPTIONS`, with an embedding of `width` D for each caption."""
    embedding = pa.field("embedding", pa.list_(pa.float32(), width), nullable=False)
    return CAPTIONS.set(CAPTIONS.get_field_index("caption"), embedding)


def text_width(path: Path) -> int:
    """Return D, the width of the text embeddings in a file; 0 where its embeddings are no such lists."""
    return getattr(pq.read_schema(path).field("embedding").type, "list_size", 0)


def write_table(path: Path, table: pa.Table, schema: pa.Schema, metadata: Mapping[str, Any] | None = None) -> None:
    """Write `table` as Parquet, cast to `schema`, whole or not at all; `metadata` goes under the key `casita`."""
    described = schema.with_metadata({"casita": json.dumps({"schema_version": SCHEMA_VERSION, **(metadata or {})})})
    with write_beside(path) as temporary:
        rows = ROW_GROUP if "window_id" in schema.names else None
        pq.write_table(
            table.select(schema.names).cast(described),
            temporary,
            compression="zstd",
            write_page_checksum=True,
            row_group_size=rows,
        )


def read_table(
    path: Path, schema: pa.Schema, columns: list[str] | None = None, dictionaries: list[str] | None = None
) -> pa.Table:
    """Read a Parquet file and check that it has `schema`'s columns (or the named ones) with `schema`'s types.

    The text columns `dictionaries` come as Arrow dictionaries, which costs less time and memory. Captions and text
    embeddings of schema 1.0 get the column `number` (`with_numbers`).

    Raises:
        ValueError: no Parquet, other columns, or damaged (the pages carry checksums).
    """
    check_columns(path, schema, columns)
    wanted = columns or schema.names
    try:
        table = pq.read_table(
            path,
            columns=stored_columns(path, wanted),
            read_dictionary=dictionaries,
            page_checksum_verification=True,
        )
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: damaged ({error}). Run the stage that writes it again.") from None
    return with_numbers(table, wanted)


def check_columns(path: Path, schema: pa.Schema, columns: list[str] | None = None) -> Path:
    """Return `path`, if it is Parquet with `schema`'s columns (or the named ones) and types, else raise `ValueError`.

    `number` may be missing: files of schema 1.0 have none.
    """
    try:
        stored = pq.read_schema(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: expected Parquet, found something else ({error}). Run the stage again.") from None
    for name in stored_columns(path, columns or schema.names):
        if name not in stored.names or stored.field(name).type != schema.field(name).type:
            found = stored.field(name).type if name in stored.names else "no such column"
            raise ValueError(
                f"{path}: column {name!r} should be {schema.field(name).type}, found {found}. Run the stage again."
            )
    return path


def stored_columns(path: Path, columns: list[str]) -> list[str]:
    """Name the columns to read from the file `path`, from which `with_numbers` makes `columns`."""
    if "number" not in columns or "number" in pq.read_schema(path).names:
        return columns
    return [name for name in columns if name != "number"]


def with_numbers(table: pa.Table, columns: list[str]) -> pa.Table:
    """Return `table` with `columns`; a missing `number` is each row's place among the rows of its window, from 0.

    So were captions numbered in schema 1.0: by their order. All rows of a window must be in `table`.
    """
    if "number" not in columns or "number" in table.schema.names:
        return table
    window = table["window_id"].to_pandas()
    number = window.groupby(window, observed=True).cumcount()
    numbered = table.append_column(CAPTIONS.field("number"), pa.array(number, pa.int32())).select(columns)
    header = json.loads((table.schema.metadata or {}).get(b"casita", b"{}"))
    return numbered.replace_schema_metadata({"casita": json.dumps({**header, "schema_version": SCHEMA_VERSION})})


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the settings that `write_table` stored in a Parquet file's header; `{}` for a file of another origin."""
    return json.loads((pq.read_schema(path).metadata or {}).get(b"casita", b"{}"))


class StageRecord(TypedDict):
    """A stage in home.json: its settings, the SHA-256 of the files that it read and wrote, and a summary."""

    settings: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]
    summary: dict[str, Any]


class HomeDescription(TypedDict):
    """The content of home.json."""

    schema_version: str
    home: NotRequired[str]
    layout: NotRequired[Layout]
    stages: NotRequired[dict[str, StageRecord]]
    made_from: NotRequired[str]  # of a home from a published data set: the SHA-256 of its checksums


RENAMED_SETTINGS = {"unended": "unclosed"}  # name in release 0.1 -> name today, in settings and in summaries


def read_description(path: Path) -> HomeDescription:
    """Read a home.json of any release; settings and summaries get the names that they have today."""
    description: HomeDescription = read_json(path)
    for stage in description.get("stages", {}).values():
        for named in (stage.get("settings", {}), stage.get("summary", {})):
            for old_name in RENAMED_SETTINGS.keys() & named.keys():
                named[RENAMED_SETTINGS[old_name]] = named.pop(old_name)
    return description


class HomeFolder:
    """A home's folder: where each stage's files are, and whether they are up to date.

    A stage is up to date when its recorded settings and the hashes of its inputs equal today's, and each recorded
    output still has its recorded hash. A stage asks `is_current`, writes its outputs, then calls `record`.

    Attributes:
        root: the folder.
        events, windows: the files of the events and of the windows.
        pictures: the folder of the pictures.
    """

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.events = self.root / "events.parquet"
        self.windows = self.root / "windows.parquet"
        self.pictures = self.root / "pictures"

    def image_embeddings(self, vision_model: str) -> Path:
        """Return the path of the image embeddings by a vision model."""
        return self.root / "image_embeddings" / f"{slug(vision_model)}.safetensors"

    def captions(self, style: str) -> Path:
        """Return the path of the captions of a style."""
        return self.root / "captions" / f"{style}.parquet"

    def text_embeddings(self, style: str, text_model: str) -> Path:
        """Return the path of the text embeddings of a style by a text model."""
        return self.root / "text_embeddings" / f"{style}--{slug(text_model)}.parquet"

    @property
    def description(self) -> HomeDescription:
        """Return the content of `home.json`; `FileNotFoundError` says how to make it."""
        path = self.root / "home.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, so {self.root} is no home folder. Make one: casita read.")
        return read_description(path)

    @property
    def name(self) -> str:
        """Return the home's name."""
        return self.description["home"]

    @property
    def layout(self) -> Layout:
        """Return the layout as it was given to `casita read` (already checked); `ValueError` when it has none."""
        layout = self.description.get("layout")
        if layout is None:
            raise ValueError(f"{self.root}: the home has no layout. Give one: casita read {self.root} --layout NAME")
        return layout

    @property
    def layout_or_empty(self) -> Layout:
        """Return the layout, or one without sensors and activities where the home has none."""
        return self.description.get("layout") or empty_layout(self.name)

    def describe(self, **content: Any) -> None:
        """Set top-level keys of `home.json` (`home`, `layout`), keeping the others."""
        self._write({**self._content(), **content})

    def require(self, path: Path, command: str) -> Path:
        """Return `path` if it exists, else raise a `FileNotFoundError` that names the command which writes it."""
        if not path.exists():
            raise FileNotFoundError(f"{path}: not there yet. Run: casita {command} {self.root}")
        return path

    def is_current(self, stage: str, settings: Mapping[str, Any], inputs: Iterable[Path]) -> bool:
        """Return whether `stage` was recorded with these settings and inputs, and its outputs are untouched."""
        entry = self._content().get("stages", {}).get(stage)
        if entry is None or entry["settings"] != _plain(settings) or entry["inputs"] != self._hashes(inputs):
            return False
        outputs = {self.root / name: recorded for name, recorded in entry["outputs"].items()}
        return all(path.exists() and hash_file(path) == recorded for path, recorded in outputs.items())

    def record(
        self,
        stage: str,
        settings: Mapping[str, Any],
        inputs: Iterable[Path],
        outputs: Iterable[Path],
        summary: Mapping[str, Any] | None = None,
        describe: Mapping[str, Any] | None = None,
    ) -> None:
        """Note that `stage` has just written `outputs` from `inputs`; `summary` is what a person wants to know.

        `describe` has top-level keys to set in the same breath, so that a stage that is killed leaves both or neither.
        """
        content: dict[str, Any] = {**self._content(), **(describe or {})}
        content.setdefault("stages", {})[stage] = {
            "settings": _plain(settings),
            "inputs": self._hashes(inputs),
            "outputs": self._hashes(outputs),
            "summary": _plain(summary or {}),
        }
        self._write(content)

    def summary(self, stage: str) -> dict[str, Any]:
        """Return the summary that `stage` gave to `record`; `{}` when it has not run."""
        entry = self._content().get("stages", {}).get(stage)
        return {} if entry is None else entry["summary"]

    def settings(self, stage: str) -> dict[str, Any]:
        """Return the settings with which `stage` last ran; `{}` when it has not run."""
        entry = self._content().get("stages", {}).get(stage)
        return {} if entry is None else entry["settings"]

    def _content(self) -> HomeDescription:
        path = self.root / "home.json"
        return read_description(path) if path.is_file() else {"schema_version": SCHEMA_VERSION}

    def _write(self, content: Mapping[str, Any]) -> None:
        write_json(self.root / "home.json", {**content, "schema_version": SCHEMA_VERSION})

    def _hashes(self, paths: Iterable[Path]) -> dict[str, str]:
        hashes = {}
        for path in map(Path, paths):
            name = path.relative_to(self.root) if path.is_relative_to(self.root) else path.resolve()
            hashes[str(name)] = hash_file(path)
        return hashes


P = ParamSpec("P")
R = TypeVar("R")
Stage = Callable[Concatenate[HomeFolder, P], R]


def writes(command: str) -> Callable[[Stage[P, R]], Stage[P, R]]:
    """Decorate a stage's function, whose first argument is the home folder: it alone writes there meanwhile.

    `command` is the stage's name on the command line. All but `read` need a home that is there already.
    """

    def decorate(stage: Stage[P, R]) -> Stage[P, R]:
        @wraps(stage)
        def locked_stage(folder: HomeFolder, *args: P.args, **kwargs: P.kwargs) -> R:
            if command != "read":
                _ = folder.description  # an error for a folder that is no home, before the lock makes it
            with locked(folder.root, f"casita {command}"):
                return stage(folder, *args, **kwargs)

        return locked_stage

    return decorate


def home_folders(root: Path | str) -> list[HomeFolder]:
    """Return the home folder `root`, or, of a data set of several homes, the home folders in it, by name.

    A data set of several homes is nothing but a folder of home folders, each with a home of its own.

    Raises:
        FileNotFoundError: `root` is neither. ValueError: two of its folders hold the same home.
    """
    root = Path(root)
    if (root / "home.json").is_file():
        return [HomeFolder(root)]
    folders = [HomeFolder(path.parent) for path in sorted(root.glob("*/home.json"))]
    if not folders:
        raise FileNotFoundError(
            f"{root}: holds no home.json and no folder that does, so it is neither a home folder nor a data set of "
            "several. Make one: casita build, or casita read."
        )
    folder_of: dict[str, Path] = {}
    for folder in folders:
        if folder.name in folder_of:
            raise ValueError(
                f"{root}: {folder_of[folder.name].name} and {folder.root.name} both hold home {folder.name!r}. Build "
                "one of them under another name (--home), or move it elsewhere."
            )
        folder_of[folder.name] = folder.root
    return folders


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` as JSON gives it back, so that tuples and lists compare equal to what a file holds."""
    return json.loads(json.dumps(content))


def add_folder_argument(parser: argparse.ArgumentParser) -> None:
    """Add the positional `DIR` of every stage command."""
    parser.add_argument("dir", type=Path, metavar="DIR", help="a home folder, or a folder of several")
