"""Start the page: over a Space's own files, or over a run on this machine."""

from html import escape
from pathlib import Path
from typing import Any

from transformers.utils import logging as progress_bar

from casita.datasets_scripts.schema import HomeFolder
from casita.files import read_json
from casita.model_cards.space.home_view import HomeView, LoadedModel
from casita.model_cards.space.page import build, launch

SETTINGS = "space.json"


def serve_space(root: Path) -> None:
    """Serve the folder of a Space: `space.json` says which model, `home/` holds the home's events."""
    settings = read_json(root / SETTINGS)
    serve(settings["model"], HomeFolder(root / "home"), revision=settings["revision"])


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
    view = HomeView.from_folder(home, LoadedModel.load(model, revision))
    launch(build(view, _frozen_models(view.loaded)), port=port, **options)


def _frozen_models(loaded: LoadedModel) -> str:
    """Name the frozen models behind the page, HTML."""
    text = str(loaded.processor.text_model).rpartition("/")[2]
    pictures = f"pictures of sensors by <b>{escape(loaded.table.vision_model)}</b>, " if loaded.table else ""
    return f"Read with {pictures}sentences by <b>{escape(text)}</b>."
