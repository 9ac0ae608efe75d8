"""`casita build`: all data stages in one, each skipped when its inputs and settings are unchanged."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from casita.datasets_scripts import captions, floor_plans, image_embeddings, read, text_embeddings, windows
from casita.datasets_scripts.schema import HomeFolder
from casita.datasets_scripts.synthetic_home import write_synthetic_log
from casita.datasets_scripts.windows import WindowSettings


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """What `build` passes to the stages; each stage's own help explains its options."""

    layout: str | Path | None = None
    home: str | None = None
    columns: Sequence[str] | None = None
    windows: WindowSettings = field(default_factory=WindowSettings)
    picture_size: int = 224
    vision_model: str = "clip"
    normalization: str = "center"
    caption_style: str = "narrative"
    text_model: str = "gte-base"
    seed: int = 0


def build_home(folder: HomeFolder, logs: Sequence[Path], settings: BuildSettings) -> None:
    """Make `folder` from raw logs: events, windows, pictures, image embeddings, captions, text embeddings.

    Prints what each stage did. Safe to run again: what is up to date is not made again.
    """
    read_summary = read.read_home(folder, logs, settings.layout, settings.home, settings.columns)
    _tell("events", folder.events, str(read_summary or read.run_summary(folder)), read_summary is None)
    cut = windows.cut_home(folder, settings.windows)
    told = "\n".join(windows.describe(cut or folder.summary("windows")))
    _tell("windows", folder.windows, told, cut is None)
    drawn = floor_plans.draw_home(folder, settings.picture_size)
    _tell("pictures", folder.root / "contact_sheet.png", "", drawn is None)
    table = image_embeddings.embed_home(folder, settings.vision_model, settings.normalization)
    _tell("image embeddings", folder.image_embeddings(settings.vision_model), "", table is None)
    told_captions = captions.caption_home(folder, settings.caption_style, settings.seed)
    _tell("captions", folder.captions(settings.caption_style), "", told_captions is None)
    embedded = text_embeddings.embed_captions(folder, settings.caption_style, settings.text_model)
    path = folder.text_embeddings(settings.caption_style, settings.text_model)
    _tell("text embeddings", path, "", embedded is None)


def _tell(stage: str, path: Path, summary: str, current: bool) -> None:
    print(f"{stage}: {path}{' (up to date)' if current else ''}")
    if summary and not current:
        print(summary)


def parse_synthetic(text: str) -> dict[str, int]:
    """`days=30,seed=1` as arguments of `write_synthetic_log`."""
    options = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in ("days", "seed") or not value.isdigit():
            raise argparse.ArgumentTypeError(f"{part!r}: expected days=N or seed=N, joined by commas")
        options[name] = int(value)
    return options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Raw log -> home folder: events, windows, pictures, image embeddings, captions, text embeddings."
    )
    parser.epilog = (
        "examples:\n"
        "  casita build --log raw/kyoto --layout kyoto --out homes/kyoto --unplaced drop --types motion door item\n"
        "  casita build --synthetic days=30 --out homes/synthetic --vision-model pixels --text-model minilm"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    read.add_log_arguments(parser, source)
    source.add_argument(
        "--synthetic", type=parse_synthetic, metavar="days=N,seed=N", help="the built-in home's made-up log instead"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the home folder to make")
    windows.add_window_arguments(parser)
    group = parser.add_argument_group("pictures and texts")
    group.add_argument("--picture-size", type=int, default=224, metavar="PIXELS")
    image_embeddings.add_model_arguments(group)
    captions.add_style_argument(group)
    text_embeddings.add_model_argument(group)


def run(args: argparse.Namespace) -> None:
    folder = HomeFolder(args.out)
    logs, layout = args.log, args.layout
    if args.synthetic is not None:
        # Inside the home folder, and the same bytes every time: the stage `read` sees that nothing changed.
        logs, layout = [write_synthetic_log(args.out / "synthetic.txt", **args.synthetic)], layout or "synthetic"
    settings = BuildSettings(
        layout=layout,
        home=args.home,
        columns=args.columns,
        windows=windows.settings_from(args),
        picture_size=args.picture_size,
        vision_model=args.vision_model,
        normalization=args.normalization,
        caption_style=args.caption_style,
        text_model=args.text_model,
        seed=args.seed,
    )
    build_home(folder, logs, settings)
    print(f"\n{folder.root} is ready. Train on it: casita train --config CONFIG --data {folder.root} --out RUN")
