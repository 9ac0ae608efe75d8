"""All data stages of one home, each skipped when its inputs and settings are unchanged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from casita.datasets_scripts.captions import caption as captions
from casita.datasets_scripts.pictures import draw as floor_plans
from casita.datasets_scripts.readers import read
from casita.datasets_scripts.schema import HomeFolder
from casita.datasets_scripts.windows import cut as windows
from casita.datasets_scripts.windows.cut import WindowSettings
from casita.files import locked

STAGES = ("read", "windows", "draw", "embed-images", "caption", "embed-text")  # in this order


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """What `build` passes to the stages; each stage's own help explains its options."""

    stages: tuple[str, ...] = STAGES
    layout: str | Path | None = None
    home: str | None = None
    columns: Sequence[str] | None = None
    unclosed: str = "next"
    windows: WindowSettings = field(default_factory=WindowSettings)
    picture_size: int = 224
    vision_model: str = "clip"
    normalization: str = "center"
    caption_style: str = "narrative"
    captions: int = 1
    text_model: str = "gte-base"
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.stages) - set(STAGES):
            raise ValueError(f"stages {sorted(unknown)} are unknown; there are: {', '.join(STAGES)}.")


def build_home(
    folder: HomeFolder,
    logs: Sequence[Path],
    settings: BuildSettings,
    load_vision: Callable[[], Any] | None = None,
    load_text: Callable[[], Any] | None = None,
) -> None:
    """Make `folder` from raw logs: events, windows, pictures, image embeddings, captions, text embeddings.

    Prints what each stage did. Safe to run again: what is up to date is not made again. `load_vision` and `load_text`
    give the models, where several homes share them.
    """
    stages: dict[str, Callable[[], None]] = {
        "read": lambda: _read(folder, logs, settings),
        "windows": lambda: _cut(folder, settings),
        "draw": lambda: _draw(folder, settings),
        "embed-images": lambda: _embed_images(folder, settings, load_vision),
        "caption": lambda: _caption(folder, settings),
        "embed-text": lambda: _embed_text(folder, settings, load_text),
    }
    with locked(folder.root, "casita build"):
        for name in STAGES:
            if name in settings.stages:
                stages[name]()


def _read(folder: HomeFolder, logs: Sequence[Path], settings: BuildSettings) -> None:
    summary = read.read_home(folder, logs, settings.layout, settings.home, settings.columns, settings.unclosed)
    _tell("events", folder.events, str(summary or read.run_summary(folder)), summary is None)


def _cut(folder: HomeFolder, settings: BuildSettings) -> None:
    cut = windows.cut_home(folder, settings.windows)
    told = "\n".join(windows.describe(cut or folder.summary("windows")))
    _tell("windows", folder.windows, told, cut is None)


def _draw(folder: HomeFolder, settings: BuildSettings) -> None:
    drawn = floor_plans.draw_home(folder, settings.picture_size)
    _tell("pictures", folder.root / "contact_sheet.png", "", drawn is None)


def _embed_images(folder: HomeFolder, settings: BuildSettings, load: Callable[[], Any] | None) -> None:
    from casita.datasets_scripts.pictures import (
        image_embeddings,  # torch takes seconds: only for the stages that need it
    )

    table = image_embeddings.embed_home(folder, settings.vision_model, settings.normalization, load=load)
    _tell("image embeddings", folder.image_embeddings(settings.vision_model), "", table is None)


def _caption(folder: HomeFolder, settings: BuildSettings) -> None:
    told = captions.caption_home(folder, settings.caption_style, settings.seed, captions=settings.captions)
    _tell("captions", folder.captions(settings.caption_style), "", told is None)


def _embed_text(folder: HomeFolder, settings: BuildSettings, load: Callable[[], Any] | None) -> None:
    from casita.datasets_scripts.captions import text_embeddings

    done = text_embeddings.embed_captions(folder, settings.caption_style, settings.text_model, load=load)
    _tell("text embeddings", folder.text_embeddings(settings.caption_style, settings.text_model), "", done is None)


def _tell(stage: str, path: Path, summary: str, current: bool) -> None:
    print(f"{stage}: {path}{' (up to date)' if current else ''}")
    if summary and not current:
        print(summary)
