"""A home as the page shows it: its days, their events and windows, and the answers of the model about them.

`N` events, `B` windows, `K` activities, `P` width of the shared space. Times of a day are seconds since its midnight.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DAY_S = 86_400


@dataclass(frozen=True)
class Windows:
    """The B windows of a day by time: `start_s`, `end_s`, number of `events` `(B,)`, unit `vectors` `(B, P)`."""

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
class LoadedModel:
    """A trained model, its processor, its table of picture embeddings (None: it has none), and its sentence model."""

    model: CasitaModel
    processor: CasitaProcessor
    table: SensorEmbeddingTable | None
    _text_model: "SentenceTransformer | None" = None
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def load(cls, source: str | Path, revision: str | None = None) -> "LoadedModel":
        """Load a model directory or a Hub id. The code is that of the installed casita: none is fetched and run.

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
    def text_model(self) -> "SentenceTransformer":
        """Return the sentence model, loaded when the first sentence comes."""
        with self._lock:
            if self._text_model is None:
                if self.processor.text_model is None:
                    raise ValueError("This model names no text model, so it cannot read sentences.")
                self._text_model = load_text_model(self.processor.text_model)
            return self._text_model

    def encode(self, events: pa.Table) -> Windows:
        """Cut a day's events, `home` among their columns, into windows; skip what the model does not know."""
        home = events["home"][0].as_py()
        stream = self.processor.stream(events, unknown="skip", home=home if home in self.processor.homes else None)
        midnight = np.datetime64(events["timestamp"][0].as_py().date(), "us")
        start_s = (stream.start - midnight) / np.timedelta64(1, "s")
        end_s = (stream.end - midnight) / np.timedelta64(1, "s")
        vectors = np.zeros((0, self.model.config.projection_dim), np.float32)
        if len(stream.first):
            vectors = embed_windows(self.model, self.processor.tensors(stream), progress=False).sensor
        order = np.argsort(start_s, kind="stable")  # sessions may overlap
        return Windows(start_s[order], end_s[order], (stream.last - stream.first)[order], vectors[order])

    @torch.inference_mode()
    def similarity(self, sentence: str, vectors: np.ndarray) -> np.ndarray:
        """Return `(B,)` cosines of a sentence with windows `(B, P)`."""
        text = torch.from_numpy(embed_texts(self.text_model, [sentence], progress=False))
        row = nn.functional.normalize(self.model.get_text_features(text).pooler_output.float(), dim=-1)
        return vectors @ row.numpy()[0]

    def probabilities(self, vectors: np.ndarray, activities: Mapping[str, Sequence[str]]) -> np.ndarray:
        """Return `(B, K)` probabilities of activities, each described by sentences, as `zero-shot-activity` does."""
        ask = ZeroShotActivityPipeline(model=self.model, processor=self.processor, text_model=self.text_model)
        return ask.score(torch.from_numpy(vectors), dict(activities))[1].numpy()


class Day:
    """One calendar day of a home: `t_s` `(N,)`, `sensors` and `states` (N), by time."""

    def __init__(self, name: str, events: pa.Table, loaded: LoadedModel):
        self.name = name
        self.events = events
        self._loaded = loaded
        timestamps = np.asarray(events["timestamp"].combine_chunks())
        self.t_s = (timestamps - np.datetime64(name, "us")) / np.timedelta64(1, "s")
        self.sensors: list[str] = events["sensor"].to_pylist()
        self.states: list[str] = events["state"].to_pylist()
        self._lock = Lock()
        self._windows: Windows | None = None

    @property
    def windows(self) -> Windows:
        """Return the day's windows, cut and encoded at the first call."""
        with self._lock:
            if self._windows is None:
                self._windows = self._loaded.encode(self.events)
            return self._windows

    @cached_property
    def labels(self) -> list[str | None]:
        """Return the label of each event."""
        return self.events["activity"].to_pylist()

    @cached_property
    def logged(self) -> list[tuple[float, float, str]]:
        """Return (begin, end, label) of each stretch of events with one label; none in a log without labels."""
        stretches: list[tuple[float, float, str]] = []
        before = None
        for t_s, label in zip(self.t_s.tolist(), self.labels, strict=True):
            if label is not None:
                begin = stretches.pop()[0] if label == before else t_s
                stretches.append((begin, t_s, label))
            before = label
        return stretches

    def between(self, start_s: float, end_s: float) -> slice:
        """Return where the events in [start, end] are."""
        first, stop = np.searchsorted(self.t_s, [start_s, end_s + 1e-6]).tolist()
        return slice(first, stop)

    def label_of(self, start_s: float, end_s: float) -> str | None:
        """Return the label of most of the events in [start, end]; None where most have none."""
        labels = self.labels[self.between(start_s, end_s)]
        return max(sorted(set(labels), key=str), key=labels.count) if labels else None


class HomeView:
    """A home: its layout, its days that have events, and the model that reads it.

    Args:
        layout: checked already (`casita.datasets_scripts.layouts.layout`).
        events: with schema EVENTS.
        folder: where a relative `floor_plan` of the layout lies.
    """

    def __init__(self, layout: Layout, events: pa.Table, loaded: LoadedModel, folder: Path | None = None):
        self.layout = layout
        self.loaded = loaded
        self.folder = folder
        self.name = layout["home"]
        self.events = events.sort_by("timestamp")
        self.days: dict[str, Day] = {}
        dates = np.asarray(pc.strftime(self.events["timestamp"], format="%Y-%m-%d").combine_chunks())
        is_first = np.r_[True, dates[1:] != dates[:-1]]
        bounds = [*np.flatnonzero(is_first).tolist(), len(dates)]
        for start, stop in pairwise(bounds):
            name = str(dates[start])
            self.days[name] = Day(name, self.events.slice(start, stop - start), loaded)

    @classmethod
    def from_folder(cls, folder: HomeFolder, loaded: LoadedModel) -> "HomeView":
        """Return the home of a home folder, which has at least been read."""
        return cls(folder.layout, read_table(folder.require(folder.events, "read"), EVENTS), loaded, folder.root)

    def day(self, name: str) -> Day:
        """Return a day by its date; `ValueError` for one without events."""
        if name not in self.days:
            span = f"between {min(self.days)} and {max(self.days)}"
            raise ValueError(f"{self.name} has no events on {name!r}; its days lie {span}.")
        return self.days[name]

    @cached_property
    def levels(self) -> dict[str, tuple[float, float]]:
        """Return the quartiles of each numeric sensor's readings, between which a reading is NORMAL."""
        rows = self.events.filter(self.events["value"].is_valid())
        readings = {
            sensor: rows.filter(pc.equal(rows["sensor"], sensor))["value"].to_numpy()
            for sensor in pc.unique(rows["sensor"]).to_pylist()
        }
        return {sensor: fit_levels(values) for sensor, values in readings.items()}

    def states_before(self, name: str) -> dict[str, str]:
        """Return the state of each sensor at the midnight in which a day begins."""
        earlier = self.events.filter(pc.less(self.events["timestamp"], pa.scalar(np.datetime64(name, "us"))))
        last = earlier.group_by("sensor", use_threads=False).aggregate([("state", "last")])
        return dict(zip(last["sensor"].to_pylist(), last["state_last"].to_pylist(), strict=True))

    def search(self, sentence: str, days: Sequence[str], top: int = 8) -> tuple[dict[str, np.ndarray], list[Moment]]:
        """Return each day's cosines `(B,)`, and the `top` windows that fit best; none shares time with a better one.

        Raises:
            ValueError: no sentence.
        """
        sentence = " ".join(sentence.split())
        if not sentence:
            raise ValueError("Type a sentence first, such as: somebody is cooking dinner.")
        scores = {name: self.loaded.similarity(sentence, self.day(name).windows.vectors) for name in days}
        ranked = sorted((-score, name, i) for name, row in scores.items() for i, score in enumerate(row.tolist()))
        moments: list[Moment] = []
        for negative_cosine, name, i in ranked:
            day = self.day(name)
            start_s = float(day.windows.start_s[i])
            end_s = float(day.windows.end_s[i])
            if any(m.day == name and start_s <= m.end_s and m.start_s <= end_s for m in moments):
                continue
            moment = Moment(
                day=name,
                start_s=start_s,
                end_s=end_s,
                events=int(day.windows.events[i]),
                score=-negative_cosine,
                room=self._room(day, start_s, end_s),
                logged=day.label_of(start_s, end_s),
            )
            moments.append(moment)
            if len(moments) == top:
                break
        return scores, moments

    def zero_shot(self, activities: Mapping[str, Sequence[str]], day: str) -> np.ndarray:
        """Return `(B, K)` probabilities of the activities for a day's windows; `ValueError` for fewer than two."""
        if len(activities) < 2:
            raise ValueError("Give two activities or more, one on each line: scores compare them with each other.")
        return self.loaded.probabilities(self.day(day).windows.vectors, activities)

    def _room(self, day: Day, start_s: float, end_s: float) -> str:
        """Return the room with most events in [start, end]."""
        placed = self.layout["sensors"]
        sensors = day.sensors[day.between(start_s, end_s)]
        rooms = [placed[sensor]["room"] for sensor in sensors if sensor in placed]
        return max(sorted(set(rooms)), key=rooms.count).replace("_", " ") if rooms else "an unknown place"


def parse_activities(text: str) -> dict[str, list[str]]:
    """Read a line an activity, a sentence or `name: sentence | sentence`; return the sentences by name."""
    activities: dict[str, list[str]] = {}
    for line in filter(None, (" ".join(line.split()) for line in text.splitlines())):
        name, colon, rest = line.partition(":")
        sentences = [part.strip() for part in rest.split("|") if part.strip()] if colon else [line]
        if not name.strip() or not sentences:
            raise ValueError(f"{line!r}: expected a sentence, or NAME: sentence | sentence.")
        activities.setdefault(name.strip(), []).extend(sentences)
    return activities


def clock(second: float) -> str:
    """Write 27000 seconds as `07:30`."""
    minutes = int(second) // 60
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def seconds_of(text: str) -> int:
    """Read `07:30` or `07:30:15` as seconds since midnight; `ValueError` for anything else."""
    parts = text.strip().split(":")
    if len(parts) in (2, 3) and all(part.isdigit() and len(part) == 2 for part in parts):
        hours, minutes, seconds = [*map(int, parts), 0][:3]
        if hours < 24 and minutes < 60 and seconds < 60:
            return 3600 * hours + 60 * minutes + seconds
    raise ValueError(f"time {text!r} cannot be read; expected hours and minutes, such as 07:30.")
