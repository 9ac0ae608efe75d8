"""A home as the page shows it: its days, their events and windows, and what the model says of them.

`N` events, `B` windows, `K` activities, `P` width of the shared space. Times of a day are seconds since its midnight.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from casita.datasets_scripts.captions.text_embeddings import embed_texts, load_text_model
from casita.datasets_scripts.layouts.layout import Layout
from casita.datasets_scripts.schema import EVENTS, HomeFolder, read_table
from casita.modeling.modeling_casita import CasitaModel
from casita.modeling.pipeline_casita import ZeroShotActivityPipeline
from casita.processing.event_windows import fit_levels
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.inference.embedding import embed_windows

DAY_S = 86_400


@dataclass(frozen=True)
class Windows:
    """`start_s`, `end_s`, `events` (the number of them) `(B,)` and unit rows `vectors` `(B, P)`, by time."""

    start_s: np.ndarray
    end_s: np.ndarray
    events: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class Moment:
    """A window that answers a sentence; `score` is the cosine of the two."""

    day: str
    start_s: float
    end_s: float
    events: int
    score: float
    room: str
    logged: str | None  # the label of most of its events, where the log has labels


@dataclass
class Aligned:
    """A trained model, its processor, its table of picture embeddings (None: it has none), and its sentence model."""

    model: CasitaModel
    processor: CasitaProcessor
    table: SensorEmbeddingTable | None
    _texts: Any = None
    _lock: Any = field(default_factory=Lock)

    @classmethod
    def load(cls, source: str | Path, revision: str | None = None) -> "Aligned":
        """From a model directory or a Hub id. The code is that of the installed casita: none is fetched and run.

        Raises:
            FileNotFoundError: there is no such model, or the Hub does not give it.
        """
        try:
            model = CasitaModel.from_pretrained(source, revision=revision or "main").eval()
        except OSError as error:
            raise FileNotFoundError(
                f"{source}: no model directory, and none of the Hub's. Name a run, a model directory or a Hub id."
            ) from error
        processor = CasitaProcessor.from_pretrained(source, revision=revision or "main")
        reads_pictures = model.config.embedding_source == "image"
        return cls(model, processor, SensorEmbeddingTable.load(source, revision) if reads_pictures else None)

    @property
    def text_model(self) -> Any:
        """Loaded when the first sentence comes."""
        with self._lock:
            if self._texts is None:
                if self.processor.text_model is None:
                    raise ValueError("This model names no text model, so it cannot read sentences.")
                self._texts = load_text_model(self.processor.text_model)
            return self._texts

    def encode(self, events: pa.Table) -> Windows:
        """A day's events, `home` among their columns, cut into windows; what the model does not know is skipped."""
        home = events["home"][0].as_py()
        stream = self.processor.stream(events, unknown="skip", home=home if home in self.processor.homes else None)
        midnight = np.datetime64(events["timestamp"][0].as_py().date(), "us")
        start_s, end_s = ((times - midnight) / np.timedelta64(1, "s") for times in (stream.start, stream.end))
        vectors = np.zeros((0, self.model.config.projection_dim), np.float32)
        if len(stream.first):
            vectors = embed_windows(self.model, self.processor.tensors(stream), progress=False).sensor
        order = np.argsort(start_s, kind="stable")  # sessions may overlap
        return Windows(start_s[order], end_s[order], (stream.last - stream.first)[order], vectors[order])

    @torch.inference_mode()
    def similarity(self, sentence: str, vectors: np.ndarray) -> np.ndarray:
        """`(B,)` cosines of a sentence with windows `(B, P)`."""
        text = torch.from_numpy(embed_texts(self.text_model, [sentence], progress=False))
        row = nn.functional.normalize(self.model.get_text_features(text).pooler_output.float(), dim=-1)
        return vectors @ row.numpy()[0]

    def shares(self, vectors: np.ndarray, activities: Mapping[str, Sequence[str]]) -> np.ndarray:
        """`(B, K)` probabilities of activities, each told by sentences, as `zero-shot-activity` gives them."""
        ask = ZeroShotActivityPipeline(model=self.model, processor=self.processor, text_model=self.text_model)
        return ask.score(torch.from_numpy(vectors), dict(activities))[1].numpy()


class Day:
    """One calendar day of a home: `t_s` `(N,)`, `sensors` and `states` (N), by time."""

    def __init__(self, name: str, events: pa.Table, aligned: Aligned):
        self.name, self.events, self._aligned = name, events, aligned
        self.t_s = _seconds(events["timestamp"], name)
        self.sensors: list[str] = events["sensor"].to_pylist()
        self.states: list[str] = events["state"].to_pylist()
        self._lock = Lock()
        self._windows: Windows | None = None

    @property
    def windows(self) -> Windows:
        """Cut and encoded at the first call."""
        with self._lock:
            if self._windows is None:
                self._windows = self._aligned.encode(self.events)
            return self._windows

    @cached_property
    def labels(self) -> list[str | None]:
        """The label of each event."""
        return self.events["activity"].to_pylist()

    @cached_property
    def logged(self) -> list[tuple[float, float, str]]:
        """(begin, end, label) of each stretch of events with one label; none in a log without labels."""
        stretches: list[tuple[float, float, str]] = []
        before = None
        for t_s, label in zip(self.t_s.tolist(), self.labels, strict=True):
            if label is not None:
                begin = stretches.pop()[0] if label == before else t_s
                stretches.append((begin, t_s, label))
            before = label
        return stretches

    def label_of(self, start_s: float, end_s: float) -> str | None:
        """The label of most of the events in [start, end]; None where most have none."""
        inside = slice(*np.searchsorted(self.t_s, [start_s, end_s + 1e-6]).tolist())
        labels = self.labels[inside]
        return max(sorted(set(labels), key=str), key=labels.count) if labels else None


class Place:
    """A home's layout, its days that have events, and the model that reads it.

    Args:
        layout: checked already (`casita.datasets_scripts.layouts.layout`).
        events: with schema EVENTS.
        folder: where a relative `floor_plan` of the layout lies.
    """

    def __init__(self, layout: Layout, events: pa.Table, aligned: Aligned, folder: Path | None = None):
        self.layout, self.aligned, self.folder = layout, aligned, folder
        self.name: str = layout["home"]
        self.events = events.sort_by("timestamp")
        self.days: dict[str, Day] = {}
        dates = pc.strftime(self.events["timestamp"], format="%Y-%m-%d").combine_chunks()
        starts = np.flatnonzero(np.r_[True, np.asarray(dates)[1:] != np.asarray(dates)[:-1]])
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(dates)], strict=True):
            name = dates[start].as_py()
            self.days[name] = Day(name, self.events.slice(start, end - start), aligned)

    @classmethod
    def of_folder(cls, folder: HomeFolder, aligned: Aligned) -> "Place":
        """The home of a home folder, which has at least been read."""
        return cls(folder.layout, read_table(folder.require(folder.events, "read"), EVENTS), aligned, folder.root)

    def day(self, name: str) -> Day:
        """A day by its date; `ValueError` for one without events."""
        if name not in self.days:
            first, last = min(self.days), max(self.days)
            raise ValueError(f"{self.name} has no events on {name!r}; its days lie between {first} and {last}.")
        return self.days[name]

    @cached_property
    def levels(self) -> dict[str, tuple[float, float]]:
        """Numeric sensor -> the quartiles of its readings, between which a reading is NORMAL."""
        rows = self.events.filter(self.events["value"].is_valid())
        found: dict[str, tuple[float, float]] = {}
        for sensor in pc.unique(rows["sensor"]).to_pylist():
            found[sensor] = fit_levels(rows.filter(pc.equal(rows["sensor"], sensor))["value"].to_numpy())
        return found

    def before(self, name: str) -> dict[str, str]:
        """Sensor -> the state that it was in at the midnight in which a day begins."""
        earlier = self.events.filter(pc.less(self.events["timestamp"], pa.scalar(np.datetime64(name, "us"))))
        last = earlier.group_by("sensor", use_threads=False).aggregate([("state", "last")])
        return dict(zip(last["sensor"].to_pylist(), last["state_last"].to_pylist(), strict=True))

    def search(self, sentence: str, days: Sequence[str], top: int = 8) -> tuple[dict[str, np.ndarray], list[Moment]]:
        """Each day's cosines `(B,)`, and the `top` windows that fit best, none of which share time with a better one.

        Raises:
            ValueError: no sentence.
        """
        sentence = " ".join(sentence.split())
        if not sentence:
            raise ValueError("Type a sentence first, such as: somebody is cooking dinner.")
        scores = {name: self.aligned.similarity(sentence, self.day(name).windows.vectors) for name in days}
        ranked = sorted(((-score, name, i) for name, row in scores.items() for i, score in enumerate(row.tolist())))
        chosen: list[Moment] = []
        for cosine, name, i in ranked:
            windows = self.day(name).windows
            start_s, end_s = float(windows.start_s[i]), float(windows.end_s[i])
            if any(m.day == name and start_s <= m.end_s and m.start_s <= end_s for m in chosen):
                continue
            room, logged = self._room(self.day(name), start_s, end_s), self.day(name).label_of(start_s, end_s)
            chosen.append(Moment(name, start_s, end_s, int(windows.events[i]), -cosine, room, logged))
            if len(chosen) == top:
                break
        return scores, chosen

    def zero_shot(self, activities: Mapping[str, Sequence[str]], day: str) -> np.ndarray:
        """`(B, K)` probabilities of the activities for the windows of a day; `ValueError` for fewer than two."""
        if len(activities) < 2:
            raise ValueError("Give two activities or more, one on each line: scores compare them with each other.")
        return self.aligned.shares(self.day(day).windows.vectors, activities)

    def _room(self, day: Day, start_s: float, end_s: float) -> str:
        """The room with most events in [start, end]."""
        inside = slice(*np.searchsorted(day.t_s, [start_s, end_s + 1e-6]).tolist())
        placed = self.layout["sensors"]
        rooms = [placed[sensor]["room"] for sensor in day.sensors[inside] if sensor in placed]
        return max(sorted(set(rooms)), key=rooms.count).replace("_", " ") if rooms else "an unknown place"


def parse_activities(text: str) -> dict[str, list[str]]:
    """A line an activity, as a sentence or as `name: sentence | sentence`: name -> sentences."""
    found: dict[str, list[str]] = {}
    for line in filter(None, (" ".join(line.split()) for line in text.splitlines())):
        name, colon, told = line.partition(":")
        sentences = [part.strip() for part in told.split("|") if part.strip()] if colon else [line]
        if not name.strip() or not sentences:
            raise ValueError(f"{line!r}: expected a sentence, or NAME: sentence | sentence.")
        found.setdefault(name.strip(), []).extend(sentences)
    return found


def clock(second: float) -> str:
    """`27000` -> `07:30`."""
    minutes = int(second) // 60
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def seconds_of(text: str) -> int:
    """`07:30` or `07:30:15` in seconds since midnight; `ValueError` for anything else."""
    parts = text.strip().split(":")
    if len(parts) in (2, 3) and all(part.isdigit() and len(part) == 2 for part in parts):
        hours, minutes, seconds = [*map(int, parts), 0][:3]
        if hours < 24 and minutes < 60 and seconds < 60:
            return 3600 * hours + 60 * minutes + seconds
    raise ValueError(f"time {text!r} cannot be read; expected hours and minutes, such as 07:30.")


def _seconds(stamps: pa.ChunkedArray, day: str) -> np.ndarray:
    return (np.asarray(stamps.combine_chunks()) - np.datetime64(day, "us")) / np.timedelta64(1, "s")
