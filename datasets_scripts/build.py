"""`casita build`: all data stages in one, each skipped when its inputs and settings are unchanged."""

import argparse
from dataclasses import replace
from pathlib import Path

from casita.datasets_scripts.captions import caption as captions
from casita.datasets_scripts.captions import text_embeddings
from casita.datasets_scripts.readers import read
from casita.datasets_scripts.schema import HomeFolder
from casita.datasets_scripts.stages import STAGES, BuildSettings, build_home
from casita.datasets_scripts.synthetic.dataset import SyntheticHomes, build_synthetic_homes
from casita.datasets_scripts.synthetic.home import write_synthetic_log
from casita.datasets_scripts.windows import cut as windows
from casita.files import locked


def parse_synthetic(text: str) -> dict[str, int]:
    """Read `homes=50,days=30,seed=1` as numbers by name."""
    options = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in ("homes", "days", "seed") or not value.isdigit():
            raise argparse.ArgumentTypeError(f"{part!r}: expected homes=N, days=N or seed=N, joined by commas")
        options[name] = int(value)
    return options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `casita build`."""
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
    """Make `BuildSettings` of parsed arguments."""
    names = ("layout", "home", "columns", "unclosed", "picture_size", "vision_model", "normalization", "text_model")
    return BuildSettings(
        stages=tuple(args.stages),
        windows=windows.settings_from(args),
        caption_style=args.caption_style,
        captions=args.captions,
        seed=getattr(args, "seed", 0),
        **{name: getattr(args, name) for name in names},
    )


def run(args: argparse.Namespace) -> None:
    """Run `casita build`."""
    settings = settings_from(args)
    synthetic = dict(args.synthetic or {})
    if synthetic.pop("homes", 1) != 1:
        _build_many(args, settings)
        return
    folder = HomeFolder(args.out)
    logs = args.log
    if inner := sorted(args.out.glob("*/home.json")):
        raise ValueError(
            f"{args.out} is a data set of several homes ({inner[0].parent.name}, ...); a home in it needs a folder of "
            f"its own: --out {args.out / 'NAME'}."
        )
    if args.synthetic is not None:
        settings = replace(settings, layout=settings.layout or "synthetic")
        with locked(folder.root, "casita build"):
            # Inside the home folder, and the same bytes every time: the stage `read` sees that nothing changed.
            logs = [write_synthetic_log(args.out / "synthetic.txt", **synthetic)]
    build_home(folder, logs, settings)
    if set(settings.stages) == set(STAGES):
        print(f"\n{folder.root} is ready. Train on it: casita train --config CONFIG --data {folder.root} --out RUN")


def _build_many(args: argparse.Namespace, settings: BuildSettings) -> None:
    if (args.out / "home.json").exists():
        raise ValueError(f"{args.out} is a home folder already, not one of several. Choose another --out.")
    if settings.layout or settings.home:
        raise ValueError("--layout and --home are for one home; made-up homes bring their own. Leave them out.")
    homes = SyntheticHomes(**args.synthetic)
    events = build_synthetic_homes(args.out, homes, settings, args.workers)
    print(
        f"\n{args.out}: {len(events)} homes, {sum(events.values()):,} events, {max(events.values()):,} in the largest"
    )
    if others := {path.parent.name for path in args.out.glob("*/home.json")} - events.keys():
        print(f"{args.out} holds other homes too, which are part of the data set: {', '.join(sorted(others))}")
