"""All data stages of one home, each skipped when its inputs and settings are unchanged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from casita.datasets_scripts.captions.caption import caption_home
from casita.datasets_scripts.captions.text_embeddings import embed_captions
from casita.datasets_scripts.pictures.draw import draw_home
from casita.datasets_scripts.readers.events_table import ReadSummary
from casita.datasets_scripts.readers.read import read_home
from casita.datasets_scripts.schema import HomeFolder
from casita.datasets_scripts.windows.cut import WindowSettings, WindowsSummary, cut_home, summary_lines
from casita.files import locked

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from casita.datasets_scripts.pictures.image_embeddings import VisionEncoder

STAGES = ("read", "windows", "draw", "embed-images", "caption", "embed-text")  # in this order


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Options that `build` passes to the stages; each stage's own help explains them."""

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
    load_vision: "Callable[[], VisionEncoder] | None" = None,
    load_text: "Callable[[], SentenceTransformer] | None" = None,
) -> None:
    """Make `folder` from raw logs: events, windows, pictures, image embeddings, captions, text embeddings.

    Prints what each stage did. Safe to run again: what is up to date is not made again. `load_vision` and `load_text`
    give the models, where several homes share them.
    """
    style = settings.caption_style
    # stage -> what people call its output, where that is, and the call that makes it (None: it was up to date)
    stages: dict[str, tuple[str, Path, Callable[[], object]]] = {
        "read": (
            "events",
            folder.events,
            lambda: read_home(
                folder, logs, settings.layout, settings.home, settings.columns, unclosed=settings.unclosed
            ),
        ),
        "windows": ("windows", folder.windows, lambda: cut_home(folder, settings.windows)),
        "draw": ("pictures", folder.root / "contact_sheet.png", lambda: draw_home(folder, settings.picture_size)),
        "embed-images": (
            "image embeddings",
            folder.image_embeddings(settings.vision_model),
            lambda: _embed_images(folder, settings, load_vision),
        ),
        "caption": (
            "captions",
            folder.captions(style),
            lambda: caption_home(folder, style, settings.seed, captions=settings.captions),
        ),
        "embed-text": (
            "text embeddings",
            folder.text_embeddings(style, settings.text_model),
            lambda: embed_captions(folder, style, settings.text_model, load=load_text),
        ),
    }
    with locked(folder.root, "casita build"):
        for stage in STAGES:
            if stage not in settings.stages:
                continue
            output, path, run = stages[stage]
            made = run()
            print(f"{output}: {path}{' (up to date)' if made is None else ''}")
            if isinstance(made, ReadSummary):
                print(made)
            elif stage == "windows" and made is not None:
                print("\n".join(summary_lines(cast(WindowsSummary, made))))


# A function because torch takes seconds to import: only for the stage that needs it.
def _embed_images(folder: HomeFolder, settings: BuildSettings, load: "Callable[[], VisionEncoder] | None") -> object:
    from casita.datasets_scripts.pictures.image_embeddings import embed_home

    return embed_home(folder, settings.vision_model, settings.normalization, load=load)
