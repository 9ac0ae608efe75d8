"""`casita embed` and `casita ask`: a trained model on a raw log, window by window."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from casita.datasets_scripts.captions.text_embeddings import load_text_model
from casita.datasets_scripts.readers.read import add_log_options, read_events
from casita.files import write_beside
from casita.modeling.modeling_casita import CasitaModel
from casita.modeling.pipeline_casita import ZeroShotActivityPipeline
from casita.processing.event_streams import EventStream
from casita.processing.processing_casita import CasitaProcessor
from casita.train.inference.embedding import embed_windows
from casita.train.inference.model_directory import load_published


def read_stream(
    processor: CasitaProcessor,
    logs: Sequence[Path],
    columns: Sequence[str] | None,
    unknown: str,
    home: str | None = None,
) -> tuple[EventStream, list[str]]:
    """Read a raw log and cut its events into windows as the processor does it; return also each window's session."""
    events, _ = read_events(logs, home or processor.home or "home", columns)
    stream = processor.stream(events, unknown=unknown, home=home)
    if not len(stream.first):
        raise ValueError(f"{logs[0]}: no window is left of {len(events)} events. See --unknown.")
    sessions = events["session"].take(pa.array(stream.order[stream.first])).to_pylist()
    return stream, sessions


def score_sentences(
    model: CasitaModel, processor: CasitaProcessor, embeds: np.ndarray, sentences: Sequence[str]
) -> np.ndarray:
    """Return `(B, N)` probabilities of N sentences for `(B, P)` windows, as the `zero-shot-activity` pipeline does."""
    if processor.text_model is None:
        raise ValueError("the processor names no text model, so sentences cannot be embedded as in training.")
    text_model = load_text_model(processor.text_model)
    ask = ZeroShotActivityPipeline(model=model, processor=processor, text_model=text_model)
    return ask.score(torch.from_numpy(embeds), list(sentences))[1].numpy()


def write_windows(path: Path, stream: EventStream, sessions: Sequence[str], **columns: pa.Array) -> None:
    """Write a row a window as Parquet, whole or not at all: session, start, end, number of events, and `columns`."""
    table = pa.table(
        {
            "session": list(sessions),
            "start": pa.array(stream.start),
            "end": pa.array(stream.end),
            "events": pa.array(stream.last - stream.first),
            **columns,
        }
    )
    with write_beside(path) as temporary:
        pq.write_table(table, temporary)


def print_scores(stream: EventStream, scores: np.ndarray, sentences: Sequence[str], show: int) -> None:
    """Print the sentence that fits best for each of the first `show` windows; `scores` as of `score_sentences`."""
    print(f"{'start':<19}  {'end':<19}  events  best of {len(sentences)} sentences")
    for i, row in enumerate(scores[: max(show, 0)]):
        start, end = (str(t)[:19].replace("T", " ") for t in (stream.start[i], stream.end[i]))
        size = stream.last[i] - stream.first[i]
        best = row.argmax()
        print(f"{start}  {end}  {size:>6}  {row[best]:.2f} {sentences[best]}")
    if len(scores) > show:
        print(f"... {len(scores) - max(show, 0):,} more windows; --out FILE keeps them all, --show N prints more")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `casita embed` or `casita ask`, whichever the parser is for."""
    asks = parser.prog.endswith(" ask")
    parser.add_argument("run_dir", metavar="RUN", help="a run folder, a model directory, or a Hub id")
    parser.add_argument("log", type=Path, metavar="LOG", help="a raw log, or a folder of session files")
    if asks:
        parser.description = "Score your own sentences for each window of a raw log."
        parser.epilog = 'example: casita ask runs/milan raw/milan.txt "cooking dinner" "asleep in bed"'
        parser.add_argument("sentences", nargs="+", metavar="SENTENCE")
        parser.add_argument("--out", type=Path, metavar="FILE.parquet", help="keep all windows' scores")
        parser.add_argument("--show", type=int, default=20, help="windows to print (default %(default)s)")
    else:
        parser.description = "A vector for each window of a raw log."
        parser.epilog = "example: casita embed runs/milan raw/milan.txt --out vectors.parquet"
        parser.add_argument("--out", type=Path, default=Path("vectors.parquet"), metavar="FILE.parquet")
    add_log_options(parser)
    parser.add_argument(
        "--unknown",
        default="error",
        choices=["error", "skip", "unk"],
        help="a sensor or state that the model's home lacks (default %(default)s)",
    )
    parser.add_argument("--home", metavar="NAME", help="whose log this is, where the model knows several homes")


def run(args: argparse.Namespace) -> None:
    """Run `casita embed` (a vector for each window of the log) or `casita ask` (how well each sentence fits it)."""
    model, processor = load_published(args.run_dir)
    stream, sessions = read_stream(processor, [args.log], args.columns, args.unknown, args.home)
    embeds = embed_windows(model, processor.tensors(stream)).sensor
    if "sentences" not in args:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeds.reshape(-1)), embeds.shape[1])
        write_windows(args.out, stream, sessions, embedding=vectors)
        print(f"{args.out}: {len(embeds):,} windows, a unit vector of {embeds.shape[1]} numbers each")
        return
    sentences = list(dict.fromkeys(args.sentences))  # one said twice counts once
    scores = score_sentences(model, processor, embeds, sentences)
    if args.out:
        columns = {sentence: pa.array(scores[:, i]) for i, sentence in enumerate(sentences)}
        write_windows(args.out, stream, sessions, **columns)
        print(f"{args.out}: {len(scores):,} windows, a probability for each of {len(sentences)} sentences")
    print_scores(stream, scores, sentences, args.show)
