"""`casita build`: all data stages in one, each skipped when its inputs and settings are unchanged."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from casita.datasets_scripts.captions import caption as captions
from casita.datasets_scripts.pictures import draw as floor_plans
from casita.datasets_scripts.readers import read
from casita.datasets_scripts.schema import HomeFolder
from casita.datasets_scripts.synthetic.home import write_synthetic_log
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
    unended: str = "next"
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
    summary = read.read_home(folder, logs, settings.layout, settings.home, settings.columns, settings.unended)
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


def parse_synthetic(text: str) -> dict[str, int]:
    """`homes=50,days=30,seed=1` as numbers by name."""
    options = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in ("homes", "days", "seed") or not value.isdigit():
            raise argparse.ArgumentTypeError(f"{part!r}: expected homes=N, days=N or seed=N, joined by commas")
        options[name] = int(value)
    return options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from casita.datasets_scripts.captions import text_embeddings
    from casita.datasets_scripts.pictures import image_embeddings

    parser.description = (
        "Raw log -> home folder: events, windows, pictures, image embeddings, captions, text embeddings.\n"
        "A data set of several homes is a folder of home folders: build each into a folder of its own below one."
    )
    parser.epilog = (
        "examples:\n"
        "  casita build --log raw/kyoto --layout kyoto --out homes/kyoto --unplaced drop --types motion door item\n"
        "  casita build --synthetic days=30 --out homes/synthetic --vision-model pixels --text-model minilm\n"
        "  casita build --synthetic homes=50,days=365 --out made_up --workers 8 --stages read windows caption"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    read.add_log_arguments(parser, source)
    source.add_argument(
        "--synthetic",
        type=parse_synthetic,
        metavar="homes=N,days=N,seed=N",
        help="the built-in home's made-up log instead; with homes=2 or more a made-up home each, all different",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the home folder to make")
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=STAGES,
        default=STAGES,
        metavar="STAGE",
        help=f"only these of {' '.join(STAGES)}",
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="homes=N: processes, a home each (1)")
    windows.add_window_arguments(parser)
    group = parser.add_argument_group("pictures and texts")
    group.add_argument("--picture-size", type=int, default=224, metavar="PIXELS")
    image_embeddings.add_model_arguments(group)
    captions.add_style_argument(group)
    group.add_argument("--captions", type=int, default=1, metavar="N", help="distinct captions a window (default 1)")
    text_embeddings.add_model_argument(group)


def settings_from(args: argparse.Namespace) -> BuildSettings:
    """`BuildSettings` from parsed arguments."""
    names = ("layout", "home", "columns", "unended", "picture_size", "vision_model", "normalization", "text_model")
    return BuildSettings(
        stages=tuple(args.stages),
        windows=windows.settings_from(args),
        caption_style=args.caption_style,
        captions=args.captions,
        seed=getattr(args, "seed", 0),
        **{name: getattr(args, name) for name in names},
    )


def run(args: argparse.Namespace) -> None:
    settings, made_up = settings_from(args), dict(args.synthetic or {})
    if made_up.pop("homes", 1) != 1:
        _build_many(args, settings)
        return
    folder, logs = HomeFolder(args.out), args.log
    if inner := sorted(args.out.glob("*/home.json")):
        raise ValueError(
            f"{args.out} is a data set of several homes ({inner[0].parent.name}, ...); a home in it needs a folder of "
            f"its own: --out {args.out / 'NAME'}."
        )
    if args.synthetic is not None:
        settings = replace(settings, layout=settings.layout or "synthetic")
        with locked(folder.root, "casita build"):
            # Inside the home folder, and the same bytes every time: the stage `read` sees that nothing changed.
            logs = [write_synthetic_log(args.out / "synthetic.txt", **made_up)]
    build_home(folder, logs, settings)
    print(f"\n{folder.root} is ready. Train on it: casita train --config CONFIG --data {folder.root} --out RUN")


def _build_many(args: argparse.Namespace, settings: BuildSettings) -> None:
    from casita.datasets_scripts.synthetic.dataset import SyntheticHomes, build_made_up_homes  # it imports this file

    if (args.out / "home.json").exists():
        raise ValueError(f"{args.out} is a home folder already, not one of several. Choose another --out.")
    if settings.layout or settings.home:
        raise ValueError("--layout and --home are for one home; made-up homes bring their own. Leave them out.")
    homes = SyntheticHomes(**args.synthetic)
    events = build_made_up_homes(args.out, homes, settings, args.workers)
    print(
        f"\n{args.out}: {len(events)} homes, {sum(events.values()):,} events, {max(events.values()):,} in the largest"
    )
    if others := {path.parent.name for path in args.out.glob("*/home.json")} - events.keys():
        print(f"{args.out} holds other homes too, which are part of the data set: {', '.join(sorted(others))}")
