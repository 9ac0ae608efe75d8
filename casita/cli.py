"""The front door: `casita COMMAND ...`. A table of contents; each command lives in the package that does the work."""

import argparse
import difflib
import importlib
import os
import sys

from casita import __version__

# command -> (module with `add_arguments(parser)` and `run(args)`, what the command does)
COMMANDS = {
    "demo": ("casita.commands.demo", "the whole way on the built-in synthetic home, offline"),
    "build": ("casita.datasets_scripts.build", "all data stages in one: raw log -> home folder"),
    "read": ("casita.datasets_scripts.readers.read", "raw log -> events"),
    "windows": ("casita.datasets_scripts.windows.cut", "events -> windows with splits, and the leak audit"),
    "draw": (
        "casita.datasets_scripts.pictures.draw",
        "layout -> a picture for each sensor state, and a contact sheet",
    ),
    "embed-images": (
        "casita.datasets_scripts.pictures.image_embeddings",
        "pictures -> the frozen table of image embeddings",
    ),
    "caption": ("casita.datasets_scripts.captions.caption", "windows -> captions"),
    "embed-text": ("casita.datasets_scripts.captions.text_embeddings", "captions -> text embeddings"),
    "layout": ("casita.datasets_scripts.check_layout", "list the shipped layouts; check a layout against a log"),
    "train": ("casita.train.align", "align windows of events with their captions"),
    "finetune": ("casita.train.finetune", "classify activities with an aligned checkpoint: its head, or all of it"),
    "evaluate": ("casita.train.evaluate_run", "results.json, report and plots of a run"),
    "compare": (
        "casita.train.experiments.compare",
        "train and evaluate a grid of configurations over seeds: one table",
    ),
    "benchmark": (
        "casita.train.benchmarks.encoder_speed",
        "speed and memory beside BertModel and torch's own encoder",
    ),
    "export": ("casita.train.inference.onnx_export", "the sensor tower as ONNX, for where there is no torch"),
    "push": ("casita.model_cards.publish", "model, data set, embeddings and demo page as repositories on the Hub"),
    "embed": ("casita.commands.ask", "a vector for each window of a raw log"),
    "ask": ("casita.commands.ask", "how well each of your sentences fits each window of a raw log"),
    "space": (
        "casita.commands.space",
        "a page in the browser: a home's days on its plan, sentences that find moments",
    ),
}

GROUPS = {
    "begin here": ("demo", "space"),
    "data: a raw log becomes a home folder": (
        "build",
        "read",
        "windows",
        "draw",
        "embed-images",
        "caption",
        "embed-text",
        "layout",
    ),
    "training and evaluation": ("train", "finetune", "evaluate", "compare", "benchmark"),
    "use and release": ("embed", "ask", "export", "push"),
}


def usage() -> str:
    """Return the list of commands by group, one line each."""
    width = max(map(len, COMMANDS))
    lines = ["usage: casita COMMAND ... (casita COMMAND --help says more)"]
    for group, names in GROUPS.items():
        lines += ["", group, *(f"  {name:<{width}}  {COMMANDS[name][1]}" for name in names)]
    return "\n".join(lines)


def find_flags(parser: argparse.ArgumentParser) -> list[str]:
    """Return every flag of a parser and of its subcommands."""
    flags = [flag for action in parser._actions for flag in action.option_strings]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            flags += [flag for subparser in action.choices.values() for flag in find_flags(subparser)]
    return flags


def use_hyphens(words: list[str], flags: list[str]) -> list[str]:
    """Spell the flags among `words` as the parser does: `--batch_size=8` becomes `--batch-size=8`."""
    spelled = []
    for word in words:
        name, equals, value = word.partition("=")
        flag = name.replace("_", "-")
        spelled.append(f"{flag}{equals}{value}" if flag in flags else word)
    return spelled


def unknown_argument(word: str, parser: argparse.ArgumentParser) -> str:
    """Return the message for a word that the command does not know: the nearest flag, if one is near."""
    near = difflib.get_close_matches(word.split("=")[0].replace("_", "-"), find_flags(parser), n=1)
    hint = f"did you mean {near[0]}?" if near else f"{parser.prog} --help lists all."
    return f"there is no argument {word!r}; {hint}"


def main(argv: list[str] | None = None) -> int:
    """Run one command; a caller's mistake is one line on stderr and exit code 2 (CASITA_TRACEBACK=1 shows where)."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(f"casita {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        print(f"casita: no command {argv[0]!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    # Threads that wait by spinning starve each other on busy cores: a training step then takes 3 to 10 times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        module = importlib.import_module(COMMANDS[argv[0]][0])  # only now: torch takes seconds to import
        parser = argparse.ArgumentParser(
            prog=f"casita {argv[0]}", formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        module.add_arguments(parser)
        args, unknown = parser.parse_known_args(use_hyphens(argv[1:], find_flags(parser)))
        if unknown:
            raise ValueError(unknown_argument(unknown[0], parser))
        return module.run(args) or 0
    except (ValueError, OSError) as error:
        if os.environ.get("CASITA_TRACEBACK"):
            raise
        print(f"casita {argv[0]}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"casita {argv[0]}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
