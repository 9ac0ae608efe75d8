"""`casita read`: raw logs of one home -> events.parquet and home.json."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from casita.datasets_scripts.layouts.layout import Layout, load_layout
from casita.datasets_scripts.readers.casas import looks_like_a_log, read_casas
from casita.datasets_scripts.readers.casas_columns import COLUMNS
from casita.datasets_scripts.readers.events_table import UNCLOSED, ReadSummary
from casita.datasets_scripts.readers.pyadlml_csv import find_pair, read_pyadlml
from casita.datasets_scripts.schema import EVENTS, HomeFolder, write_table, writes
from casita.files import is_home_name

# Only endings that name a format: `p01.t1` and `p01.t2` are two sessions.
_FORMAT_ENDING = re.compile(r"(\.(txt|csv|log|dat|tsv))?(\.gz)?$", re.IGNORECASE)


def read_events(
    logs: Sequence[Path], home: str, columns: Sequence[str] | None = None, unclosed: str = "next"
) -> tuple[pa.Table, ReadSummary]:
    """Read the raw logs of one home: a table with schema EVENTS, sorted by session and timestamp, and the summary.

    `logs` are CASAS text files (`.gz` too) or folders of them, a session each, or one pyadlml CSV pair (the folder or
    its devices.csv). `columns` names a CASAS log's columns; without it they are detected. `unclosed`: what becomes of
    a CASAS log's activity that begins and never ends: it lasts until the next one begins, and where none does it is
    left out ("next"), or until the session's end ("session"). `ValueError` or `FileNotFoundError` for a log that is
    missing, empty, binary or of another format.
    """
    if unclosed not in UNCLOSED:
        raise ValueError(f"unclosed={unclosed!r} is unknown; known: {', '.join(UNCLOSED)}.")
    logs = [Path(log) for log in logs]
    _require_logs(logs)
    pairs = [pair for pair in map(find_pair, logs) if pair]
    if not pairs:
        sessions, skipped = _sessions(logs)
        table, summary = read_casas(sessions, home, columns, unclosed)
        summary.skipped_files = skipped
        return table, summary
    if len(logs) > 1:
        raise ValueError(
            f"{pairs[0][0]}: a CSV pair is a home of its own, found {len(logs)} logs. Read them one by one."
        )
    if columns is not None:
        raise ValueError(f"{pairs[0][0]}: --columns is for CASAS text; a CSV pair has a header. Leave --columns out.")
    return read_pyadlml(*pairs[0], home)


def _require_logs(logs: Sequence[Path]) -> None:
    for log in logs:
        if not Path(log).exists():
            raise FileNotFoundError(f"{log}: no such log. Give a file or a folder of session files.")


def _sessions(logs: Sequence[Path]) -> tuple[list[tuple[str, Path]], list[str]]:
    """Return (session, file) pairs sorted by session, and the names of files in folders that are no event log."""
    if not logs:
        raise ValueError("no log was given; expected at least one file or folder.")
    sessions: dict[str, Path] = {}
    skipped: list[str] = []
    for log in logs:
        files = [file for file in log.iterdir() if file.is_file()] if log.is_dir() else [log]
        for file in sorted(files):
            name = session_name(file)
            if log.is_dir() and not looks_like_a_log(file):
                skipped.append(file.name)
            elif sessions.setdefault(name, file) != file:
                raise ValueError(f"{file}: session {name!r} is {sessions[name]} already. Rename one of the two files.")
    if not sessions:
        raise ValueError(
            f"{logs[0]}: no file in this folder is an event log; found {', '.join(skipped)[:80] or 'none'}."
        )
    return sorted(sessions.items()), skipped


def session_name(path: Path) -> str:
    """Return a file's name without the ending of its format: `P001.txt.gz` -> `P001`, `p01.t1` stays."""
    return _FORMAT_ENDING.sub("", path.name) or path.name


def home_name(logs: Sequence[Path], layout: Layout | None = None, home: str | None = None) -> str:
    """Return the home's name: the given one, else the layout's, else the first log's (of a CSV pair: its folder's)."""
    log = Path(logs[0]).resolve()
    named = log.parent if not log.is_dir() and find_pair(log) else log
    name = home or (layout["home"] if layout else session_name(named))
    if not is_home_name(name):
        raise ValueError(
            f"home {name!r}: expected a name that can be a folder's, with none of / \\ : * ? \" < > | and no dot or "
            "blank at an end. Give another with --home."
        )
    return name


def log_files(logs: Sequence[Path]) -> list[Path]:
    """Return the files that the events come from: a CSV pair's two, else the logs themselves."""
    files: list[Path] = []
    for log in map(Path, logs):
        files += find_pair(log) or [log]
    return files


@writes("read")
def read_home(
    folder: HomeFolder,
    logs: Sequence[Path],
    layout: str | Path | None = None,
    home: str | None = None,
    columns: Sequence[str] | None = None,
    unclosed: str = "next",
) -> ReadSummary | None:
    """Run the stage `read`: write events.parquet and home.json of a home folder; None if they are up to date already.

    `layout` is a shipped layout's name or a file; a home can do without one until its pictures are drawn.
    """
    _require_logs(logs)
    loaded_layout = None if layout is None else load_layout(layout)
    name = home_name(logs, loaded_layout, home)
    settings = {"home": name, "columns": list(columns) if columns else None, "unclosed": unclosed}
    # Without --layout the home keeps the one that it has.
    description = {"home": name} if loaded_layout is None else {"home": name, "layout": loaded_layout}
    if folder.is_current("read", settings, log_files(logs)):
        folder.describe(**description)
        return None
    events, summary = read_events(logs, name, columns, unclosed)
    write_table(folder.events, events, EVENTS, settings)
    folder.record("read", settings, log_files(logs), [folder.events], asdict(summary), description)
    return summary


def run_summary(folder: HomeFolder) -> ReadSummary:
    """Return the summary of the last `read`, from home.json."""
    return ReadSummary(**folder.summary("read"))


def add_log_arguments(parser: argparse.ArgumentParser, source: argparse._MutuallyExclusiveGroup | None = None) -> None:
    """Add `--log`, `--layout`, `--home`, `--unclosed` and `--columns`; `source`: the group that `--log` is one of."""
    (source or parser).add_argument(
        "--log",
        type=Path,
        nargs="+",
        required=source is None,
        metavar="PATH",
        help="CASAS text files (.gz too), folders with a file a session, or the folder of a pyadlml CSV pair",
    )
    parser.add_argument("--layout", metavar="NAME|FILE", help="a shipped layout (casita layout list) or a layout JSON")
    parser.add_argument("--home", metavar="NAME", help="name of the home (default: the layout's, else the log's)")
    parser.add_argument(
        "--unclosed",
        "--unended",  # its name in 0.1
        choices=tuple(UNCLOSED),
        default="next",
        help="how long an activity lasts that a CASAS log begins and never ends: until the next one begins (default), "
        "or, as it is often read, until the session's end",
    )
    add_log_options(parser)


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """Add `--columns`, for every command that reads a raw log."""
    parser.add_argument(
        "--columns",
        type=lambda text: [name.strip() for name in text.split(",")],
        metavar="NAME,...",
        help=f"a CASAS log's columns in the file's order, out of {','.join(COLUMNS)} (default: detected)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `casita read`."""
    parser.description = "Read the raw logs of one home into DIR/events.parquet, and say what was found and mended."
    parser.epilog = "example: casita read homes/kyoto --log raw/kyoto --layout kyoto"
    parser.add_argument("dir", type=Path, metavar="DIR", help="the home folder to make, or to read anew")
    add_log_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run `casita read DIR`."""
    folder = HomeFolder(args.dir)
    summary = read_home(folder, args.log, args.layout, args.home, args.columns, args.unclosed)
    print(summary if summary is not None else f"up to date: {run_summary(folder)}")
