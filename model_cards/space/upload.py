"""Somebody's own home on the page: a log and a layout, drawn, embedded and read by the same model, nothing trained."""

import copy
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

from casita.datasets_scripts.layouts.layout import SHIPPED, load_layout, unmatched_sensors
from casita.datasets_scripts.pictures.draw import draw_home
from casita.datasets_scripts.pictures.image_embeddings import (
    VISION_MODELS,
    VisionEncoder,
    embed_home,
    load_vision_model,
)
from casita.datasets_scripts.readers.pyadlml_csv import ACTIVITY_COLUMNS
from casita.datasets_scripts.readers.read import read_home
from casita.datasets_scripts.schema import EVENTS, HomeFolder, read_table
from casita.files import read_json
from casita.model_cards.space.home_view import HomeView, LoadedModel

LOG_BYTES = 50_000_000
LAYOUT_BYTES = 1_000_000
SENSORS = 500  # more take minutes to draw
DAYS = 400  # more make the page heavy


def open_upload(logs: Sequence[Path], layout: Path | str, loaded: LoadedModel) -> HomeView:
    """Open an uploaded log and layout, for one visitor; what was uploaded is not kept.

    Args:
        logs: a CASAS text file, or a pyadlml pair, devices.csv and activities.csv.
        layout: a JSON file, or the name of a shipped layout.

    Raises:
        ValueError: whatever is wrong with them, in one line that names no path of the server.
    """
    with tempfile.TemporaryDirectory(prefix="casita-upload-") as temporary:
        root = Path(temporary)
        try:
            return _open(_gather(logs, root / "log"), _checked(layout, root), loaded, root / "home")
        except (OSError, ValueError) as error:
            raise ValueError(_without(str(error), root)) from None


def _gather(logs: Sequence[Path], folder: Path) -> Path:
    """Copy the log to one file, or to a folder with the pair, under names of our own."""
    if not logs:
        raise ValueError("The log is missing. Choose a CASAS text file, or devices.csv and activities.csv together.")
    for log in logs:
        _require(log)
        if log.stat().st_size > LOG_BYTES:
            raise ValueError(f"{log.name}: more than {LOG_BYTES // 10**6} MB. Give a few weeks of it.")
        with log.open("rb") as file:
            if file.read(2) in (b"\x1f\x8b", b"PK"):  # what is packed may unpack to any size
                raise ValueError(f"{log.name}: a packed file. Unpack it first.")
    folder.mkdir()
    if any(log.suffix.lower() == ".csv" for log in logs):
        return _gather_pair(logs, folder)
    if len(logs) > 1:
        raise ValueError(f"{len(logs)} logs: choose one text file, or devices.csv and activities.csv together.")
    return Path(shutil.copyfile(logs[0], folder / f"{_safe(logs[0].stem)}.txt"))


def _require(upload: Path) -> None:
    if not upload.is_file():
        raise ValueError(f"{upload.name}: is not here any more, for uploads are removed. Choose the file again.")


def _gather_pair(logs: Sequence[Path], folder: Path) -> Path:
    kinds = {"activities" if "activit" in log.name.lower() else "devices": log for log in logs}
    if len(kinds) < len(logs) or "devices" not in kinds:
        names = ", ".join(log.name for log in logs)
        raise ValueError(f"{names}: expected devices.csv and, if there are labels, activities.csv.")
    for kind, log in kinds.items():
        shutil.copyfile(log, folder / f"{kind}.csv")
    if "activities" not in kinds:
        (folder / "activities.csv").write_text(",".join(ACTIVITY_COLUMNS) + "\n")
    return folder


def _checked(layout: Path | str, root: Path) -> Path | str:
    """Return a layout that is safe to read: shipped, or a small file that names no picture on the server's disk."""
    if not isinstance(layout, Path):
        if layout not in SHIPPED:
            raise ValueError("The layout is missing. Choose a JSON file, or one of the layouts that ship with Casita.")
        return layout
    _require(layout)
    if layout.stat().st_size > LAYOUT_BYTES:
        raise ValueError(f"{layout.name}: more than {LAYOUT_BYTES // 10**6} MB, which is no layout.")
    copied = Path(shutil.copyfile(layout, root / f"{_safe(layout.stem)}.json"))
    content = read_json(copied)
    if isinstance(content, dict) and "floor_plan" in content:
        raise ValueError(f"{layout.name}: names a floor_plan. Leave that entry out: the page draws rooms and sensors.")
    content = load_layout(copied)
    if not 1 <= len(content["sensors"]) <= SENSORS:
        raise ValueError(f"{layout.name}: {len(content['sensors'])} sensors; expected 1 to {SENSORS}.")
    return copied


def _open(log: Path, layout: Path | str, loaded: LoadedModel, root: Path) -> HomeView:
    folder = HomeFolder(root)
    read_home(folder, [log], layout)
    events = read_table(folder.events, EVENTS)
    unplaced, _ = unmatched_sensors(folder.layout, events["sensor"].unique().to_pylist())
    if len(unplaced) == len(events["sensor"].unique()):
        known = ", ".join(list(folder.layout["sensors"])[:3])
        raise ValueError(
            f"None of the log's sensors ({', '.join(unplaced[:3])}) is in the layout ({known}). Is it another home's?"
        )
    if len(set(events["timestamp"].cast("date32").to_pylist())) > DAYS:
        raise ValueError(f"The log spans more than {DAYS} days. Give a part of it.")
    return HomeView(folder.layout, events, _moved(loaded, folder))


def _moved(loaded: LoadedModel, folder: HomeFolder) -> LoadedModel:
    """Return the model in the home of `folder`: its sensors drawn and embedded as the model's own were."""
    if loaded.table is None:
        raise ValueError("This model reads no pictures of sensors, so it cannot move into another home.")
    trained = loaded.table
    short_names = {model.model_id: name for name, model in VISION_MODELS.items()}
    vision_model = short_names.get(trained.vision_model, trained.vision_model)
    draw_home(folder, trained.image_size, progress=False)
    load = partial(_vision, vision_model, trained.revision)
    table = embed_home(
        folder, vision_model, trained.normalization, revision=trained.revision, progress=False, load=load
    )
    assert table is not None  # a folder just made is never up to date
    moved = LoadedModel(copy.deepcopy(loaded.model), copy.deepcopy(loaded.processor), table, loaded.text_model)
    moved.processor.set_home(moved.model, table, folder.layout)
    return moved


@cache
def _vision(name: str, revision: str | None) -> VisionEncoder:
    """Load the vision model, and keep it for the next visitor."""
    return load_vision_model(name, revision=revision)


def _safe(stem: str) -> str:
    """Return a visitor's file name without what a path could be made of."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in stem)[:60] or "log"


def _without(message: str, root: Path) -> str:
    """Return a message without the server's folders, on one line."""
    for path in (root / "log", root / "home", root):
        message = message.replace(f"{path}/", "").replace(str(path), "the upload")
    return " ".join(message.split())
