"""`casita space`: the demo page over a run, or over the synthetic home of `casita demo`."""

import argparse
from pathlib import Path

from casita.datasets_scripts.hub.named_data import data_folder
from casita.datasets_scripts.schema import HomeFolder, home_folders
from casita.model_cards.homes import data_of_run


def find_home(run: str, home: Path | None) -> HomeFolder:
    """Return the home folder to show: the given one, or the one that the run was trained on.

    Raises:
        ValueError: neither is named, or the data set holds several, or the home has no layout.
        FileNotFoundError: no such home folder.
    """
    if home is None:
        data = data_of_run(Path(run))
        if data is None:
            raise ValueError(f"{run}: no run folder with a config.yaml, so the home has to be named: --home DIR.")
        home = data_folder(data)
    folder, *others = home_folders(home)
    if folder.root != home:
        names = ", ".join(other.root.name for other in [folder, *others][:5])
        raise ValueError(f"{home} holds home folders ({names}): name one, --home {folder.root}.")
    _ = folder.layout  # refused now, not after the model was loaded
    return folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `casita space`."""
    parser.description = (
        "A page in the browser: play a home's days on its floor plan, find moments by a sentence, score activities of "
        "your own, bring your own home. Nothing leaves this machine unless you say --share yes."
    )
    parser.epilog = "example: casita space runs/milan --home homes/milan --port 7860"
    parser.add_argument(
        "run_dir",
        nargs="?",
        metavar="RUN",
        help="a run folder, a model directory or a Hub id (default: the demo's run, trained first if it is not there)",
    )
    parser.add_argument("--home", type=Path, metavar="DIR", help="the home folder (default: the run's training data)")
    parser.add_argument("--demo", type=Path, default=Path("demo"), metavar="DIR", help="without RUN (default: demo)")
    parser.add_argument("--port", type=_port, metavar="N", help="default: the first free one from 7860 on")
    parser.add_argument(
        "--share", default="no", choices=["no", "yes"], help="yes: a public link through gradio's servers (default no)"
    )


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; expected a number from 1 to 65535")
    return int(text)


def run(args: argparse.Namespace) -> None:
    """Run `casita space`."""
    try:
        from casita.model_cards.space.serve import serve  # torch and gradio take seconds to import
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ValueError("the page needs gradio, which is not installed: pip install 'casita[space]'") from None
    from casita.train.inference.model_directory import model_directory_of

    if args.run_dir is None and args.home is not None:
        raise ValueError("--home needs the RUN that knows this home: casita space RUN --home DIR.")
    if args.run_dir is None:
        from casita.commands.demo import build_and_train  # what is there already is kept

        home, source = build_and_train(args.demo)
    else:
        home = find_home(args.run_dir, args.home)
        source = args.run_dir
    serve(model_directory_of(source), home, port=args.port, share=args.share == "yes")
