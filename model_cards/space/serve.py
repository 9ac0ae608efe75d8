"""Start the page: over a Space's own files, or over a run on this machine."""

from html import escape
from pathlib import Path
from typing import Any

from transformers.utils import logging as progress_bar

from casita.datasets_scripts.schema import HomeFolder
from casita.files import read_json
from casita.model_cards.space.page import build, launch
from casita.model_cards.space.place import Aligned, Place

SETTINGS = "space.json"


def serve_space(root: Path) -> None:
    """Serve the folder of a Space: `space.json` says which model, `home/` holds the home's events."""
    told = read_json(root / SETTINGS)
    serve(told["model"], HomeFolder(root / "home"), revision=told["revision"])


def serve(
    model: str | Path, home: HomeFolder, revision: str | None = None, port: int | None = None, **options: Any
) -> None:
    """Serve a home as a model reads it, until the process is stopped.

    Args:
        model: a model directory or a Hub id.
        home: a home folder that has been read, of a home that the model knows.
        options: of `launch`.
    """
    progress_bar.disable_progress_bar()
    place = Place.of_folder(home, Aligned.load(model, revision))
    launch(build(place, _about(place.aligned)), port=port, **options)


def _about(aligned: Aligned) -> str:
    """Which frozen models stand behind the page."""
    text = str(aligned.processor.text_model).rpartition("/")[2]
    seen = f"pictures of sensors by <b>{escape(aligned.table.vision_model)}</b>, " if aligned.table else ""
    return f"Read with {seen}sentences by <b>{escape(text)}</b>."
