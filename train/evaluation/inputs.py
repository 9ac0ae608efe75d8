"""The inputs of an evaluation: a run, and a home folder's windows with their captions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from casita.datasets_scripts.captions.join import caption_rows, embedding_rows, join_captions
from casita.datasets_scripts.schema import (
    CAPTIONS,
    EVENTS,
    WINDOWS,
    HomeFolder,
    read_metadata,
    read_table,
    text_embeddings_schema,
    text_width,
)
from casita.datasets_scripts.windows.splits import SPLITS, leak_audit, refuse_leaks
from casita.modeling.modeling_casita import CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.results import DataSummary, SplitSummary
from casita.train.configs.finetune_config import is_finetuned
from casita.train.configs.train_config import TrainConfig, load_config
from casita.train.data.home_arrays import matrix, one_array

RUN_FILES = ("config.yaml", "model/config.json", "model/model.safetensors", "model/processor_config.json")


@dataclass(frozen=True)
class EvaluationInputs:
    """`N` windows as the evaluation reads them: `windows` the table, `captions` one text each, `text` `(N, T)`."""

    windows: pa.Table
    captions: list[str]
    text: np.ndarray

    @property
    def splits(self) -> list[str]:
        """Return each window's split."""
        return self.windows["split"].to_pylist()

    @property
    def activities(self) -> list[str | None]:
        """Return each window's label, None where it has none."""
        return self.windows["activity"].to_pylist()

    def take(self, rows: np.ndarray) -> "EvaluationInputs":
        """Keep only these windows, in this order."""
        return EvaluationInputs(self.windows.take(rows), [self.captions[i] for i in rows], self.text[rows])


def load_run(run: Path) -> tuple[TrainConfig, CasitaModel, CasitaProcessor]:
    """Load the configuration, model (in eval mode, on the CPU) and processor of a run; a missing file is named."""
    for name in RUN_FILES:
        if not (run / name).is_file():
            raise FileNotFoundError(
                f"{run / name}: no such file, so {run} is no complete run. Train it (casita train --out {run}), or "
                "resume the training that was interrupted."
            )
    if is_finetuned(run):
        raise ValueError(
            f"{run}: a fine-tuned classifier; its own results.json holds its metrics and baselines. Evaluate the run "
            "that it came from."
        )
    config = load_config(run / "config.yaml")
    model = CasitaModel.from_pretrained(run / "model")
    return config, model.eval(), CasitaProcessor.from_pretrained(run / "model")


def load_inputs(home: HomeFolder, config: TrainConfig, model: CasitaModel) -> EvaluationInputs:
    """Read all windows of a home, with each one's first caption and embedding by the run's style and text model."""
    windows = read_table(home.require(home.windows, "windows"), WINDOWS)
    width = model.config.text_embedding_dim
    return EvaluationInputs(windows, *captions_of(home, windows, config.caption_style, config.text_model, width))


def captions_of(
    home: HomeFolder, windows: pa.Table, style: str, text_model: str, width: int
) -> tuple[list[str], np.ndarray]:
    """Read the first caption of each window `(N,)` in a style, and its embedding `(N, width)`."""
    captions_file = home.require(home.captions(style), f"caption --caption-style {style}")
    embed = f"embed-text --text-model {text_model} --caption-style {style}"
    vectors_file = home.require(home.text_embeddings(style, text_model), embed)
    stored_width = text_width(vectors_file)
    if width != stored_width:
        raise ValueError(
            f"{vectors_file}: embeddings of width {stored_width}, the model was aligned with width {width}. Embed the "
            f"captions with the run's text model, {text_model}."
        )
    captions = read_table(captions_file, CAPTIONS)
    vectors = read_table(vectors_file, text_embeddings_schema(width))
    joined = join_captions(
        windows["window_id"].combine_chunks(),
        caption_rows(home, style, captions),
        embedding_rows(home, style, text_model, vectors),
    )
    first_captions, first_vectors = (rows[joined.first] for rows in joined.rows)
    embeddings = matrix(one_array(vectors["embedding"]), width)
    return captions["caption"].take(first_captions).to_pylist(), embeddings[first_vectors]


def other_styles(home: HomeFolder, config: TrainConfig, styles: Sequence[str] | None) -> list[str]:
    """List the caption styles of the home that the run was not aligned with: `styles`, or all that are embedded.

    Raises:
        ValueError: the run's own style was asked for. FileNotFoundError: one that is not there yet.
    """
    if styles is None:
        there = sorted(path.stem for path in home.captions("any").parent.glob("*.parquet"))
        embedded = [style for style in there if home.text_embeddings(style, config.text_model).is_file()]
        return [style for style in embedded if style != config.caption_style]
    if config.caption_style in styles:
        raise ValueError(
            f"--caption-style {config.caption_style}: the run was aligned with that style, and is measured by it "
            "anyway. Name styles that it does not know."
        )
    for style in styles:
        home.require(home.captions(style), f"caption --caption-style {style}")
        embed = f"embed-text --text-model {config.text_model} --caption-style {style}"
        home.require(home.text_embeddings(style, config.text_model), embed)
    return list(dict.fromkeys(styles))


def checked_splits(home: HomeFolder, windows: pa.Table, protocol: str) -> dict[str, int]:
    """Count events shared between splits, by pair ("train/test"): all 0, or the evaluation is refused."""
    stored = read_metadata(home.windows).get("sampling", {}).get("split")
    if stored != protocol:
        raise ValueError(
            f"{home.windows}: its windows were split by {stored!r}, the evaluation asks for {protocol!r}. Cut them "
            f"again (casita windows {home.root} --split {protocol}), or name their own with --protocol."
        )
    audit = leak_audit(windows, read_table(home.require(home.events, "read"), EVENTS))
    refuse_leaks(audit)
    return audit


def describe_splits(windows: pa.Table) -> dict[str, SplitSummary]:
    """Count windows, labelled windows, sessions, days and labels of each split."""
    splits: dict[str, SplitSummary] = {}
    frame = windows.select(["split", "session", "start", "activity"]).to_pandas()
    for name in SPLITS:
        part = frame[frame["split"] == name]
        labels = Counter(part["activity"].dropna())
        splits[name] = {
            "windows": len(part),
            "labelled": sum(labels.values()),
            "sessions": int(part["session"].nunique()),
            "days": int(part["start"].dt.date.nunique()),
            "labels": dict(labels.most_common()),
        }
    return splits


def describe_data(home: HomeFolder, windows: pa.Table, audit: Mapping[str, int]) -> DataSummary:
    """Describe how the windows were cut and what each split holds, with the leak audit."""
    return {
        "sampling": read_metadata(home.windows)["sampling"],
        "splits": describe_splits(windows),
        "labels": sorted(set(windows["activity"].drop_null().to_pylist())),
        "leak_audit": dict(audit),
    }
