"""Describe windows in sentences: what the sensors saw, never what the label says (`casita caption`).

The rule-made styles are templates (`templates.py`); the style `llm` asks a language model (`llm.py`). Both put the
same facts into words (`facts.py`), gathered for all windows with NumPy.
"""

import argparse
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from casita.datasets_scripts.captions.facts import COLUMNS, facts_of
from casita.datasets_scripts.captions.llm import (
    LlmSettings,
    add_llm_arguments,
    ask_for_captions,
    llm_settings_from,
)
from casita.datasets_scripts.captions.quality_report import count_captions, count_words, describe_report, report_home
from casita.datasets_scripts.captions.templates import STYLES, WORDING, render_captions
from casita.datasets_scripts.layouts.layout import Layout
from casita.datasets_scripts.schema import (
    CAPTIONS,
    WINDOWS,
    HomeFolder,
    add_folder_argument,
    home_folders,
    read_table,
    write_table,
    writes,
)

LLM = "llm"


def caption_windows(
    windows: pa.Table,
    layout: Layout,
    style: str = "narrative",
    *,
    captions: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> list[list[str]]:
    """Return for each row of `windows` (schema.WINDOWS; activity and split are not looked at) its distinct captions.

    At most `captions` of them, in the order of their numbers; fewer where the templates of the style have no other
    wording (`structured` has one). The k-th caption depends on `window_id`, `style`, `seed` and k alone.

    Raises:
        ValueError: an unknown style, less than one caption, or a sensor that the layout lacks.
    """
    _check(style, captions, STYLES)
    rendered: list[list[str]] = []
    with tqdm(total=windows.num_rows, desc="captions", unit="window", disable=not progress) as bar:
        for chunk in facts_of(windows, layout):
            rendered += [render_captions(facts, style, captions, seed) for facts in chunk]
            bar.update(len(chunk))
    return rendered


def _check(style: str, captions: int, known: Collection[str]) -> None:
    if style not in known:
        raise ValueError(f"caption style {style!r}: there are {', '.join(known)}.")
    if captions < 1:
        raise ValueError(f"captions={captions}: give at least 1 a window.")


@writes("caption")
def caption_home(
    folder: HomeFolder,
    style: str = "narrative",
    seed: int = 0,
    *,
    captions: int = 1,
    llm: LlmSettings | None = None,
) -> dict[str, Any] | None:
    """Write `captions/<style>.parquet` of a home folder; return a summary, or None when the file is up to date.

    A window's captions are neighbouring rows, in the order of their numbers. `llm` says who writes the style `llm`
    (default: as the environment says).

    Raises:
        ValueError: an unknown style, a sensor that the layout lacks; of the style `llm`: settings that are missing, or
            windows that got no usable answer (those that did are kept, and the file is not replaced).
    """
    _check(style, captions, [*STYLES, LLM])
    stage = f"caption:{style}"
    path = folder.captions(style)
    settings = {"style": style, "captions": captions, "layout": folder.layout}
    if style == LLM:
        llm = llm or llm_settings_from()
        settings |= llm.content()
    else:
        settings |= {"seed": seed, "wording": WORDING}
    source = folder.require(folder.windows, "windows")
    if folder.is_current(stage, settings, [source]):
        return None
    windows = read_table(source, WINDOWS, COLUMNS)
    spent: dict[str, Any] = {}
    if llm is not None and style == LLM:
        window_captions, spent = ask_for_captions(
            windows, folder.layout, llm, path.with_suffix(".cache.jsonl"), captions
        )
    else:
        window_captions = caption_windows(windows, folder.layout, style, captions=captions, seed=seed, progress=True)
    table = caption_table(windows["window_id"], window_captions, style)
    write_table(path, table, CAPTIONS, {name: value for name, value in settings.items() if name != "layout"})
    mean_words = count_words(table["caption"].to_pylist())["mean"]
    summary = {**count_captions(window_captions, captions), "mean_words": mean_words, **spent}
    folder.record(stage, settings, [source], [path], summary)
    return summary


def caption_table(window_ids: pa.ChunkedArray, window_captions: Sequence[Sequence[str]], style: str) -> pa.Table:
    """Return a row for each caption, the captions of a window side by side (schema.CAPTIONS)."""
    counts = [len(captions) for captions in window_captions]
    columns = {
        "window_id": window_ids.take(np.repeat(np.arange(len(counts)), counts)),
        "style": [style] * sum(counts),
        "number": [number for count in counts for number in range(count)],
        "caption": [caption for captions in window_captions for caption in captions],
    }
    return pa.table(columns)


def add_style_argument(parser: argparse._ActionsContainer) -> None:
    """Add `--caption-style`, also an option of `casita build`."""
    parser.add_argument("--caption-style", default="narrative", choices=[*STYLES, LLM], help="default: narrative")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `casita caption`."""
    parser.description = (
        "Describe each window in sentences: DIR/captions/<style>.parquet.\n"
        "narrative: who, where in order, what was done, when;\n"
        "structured: four fixed sentences; brief: one short sentence, place and time of day; mixed: these by turns;\n"
        "places: which parts of the rooms saw how much movement, the route's ends, what was done;\n"
        "llm: a language model words the same facts."
    )
    parser.epilog = (
        "examples:\n"
        "  casita caption homes/milan --captions 4 --report\n"
        "  casita caption homes/milan --caption-style llm --llm-base-url http://127.0.0.1:8000/v1 --llm-model NAME"
    )
    add_folder_argument(parser)
    add_style_argument(parser)
    parser.add_argument("--captions", type=int, default=1, metavar="N", help="distinct captions a window (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="another seed words them otherwise (default 0)")
    parser.add_argument(
        "--report", action="store_true", help="measure the captions: DIR/captions/<style>.report.json, and a table"
    )
    add_llm_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Caption the windows of each home folder in `args.dir`."""
    llm = llm_settings_from(args) if args.caption_style == LLM else None
    for folder in home_folders(args.dir):
        summary = caption_home(folder, args.caption_style, args.seed, captions=args.captions, llm=llm)
        print(f"{folder.captions(args.caption_style)}: {_describe(summary)}")
        if args.report:
            print(describe_report(report_home(folder, args.caption_style, args.captions)))


def _describe(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "up to date"
    text = (
        f"{summary['captions']:,} captions of {summary['windows']:,} windows, {summary['mean_words']} words on average"
        f", {summary['duplicate_share']:.1%} duplicates"
    )
    if summary["windows_with_fewer"]:
        text += f"; {summary['windows_with_fewer']:,} windows have fewer, since there is no other wording"
    if "requests" in summary:
        text += (
            f"\n  {summary['requests']:,} requests, {summary['prompt_tokens']:,} tokens in and "
            f"{summary['answer_tokens']:,} out, {summary['seconds']:,} s"
        )
    return text
