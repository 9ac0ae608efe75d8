"""Events to tensors: the processor that stands beside every Casita model."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack

from .event_streams import EventStream, event_columns, is_many, window_columns
from .event_windows import STREAM_SETTINGS, Windowing, window_index
from .home_layouts import home_facts
from .sensor_embeddings import SensorEmbeddingTable
from .sensor_vocabulary import NUM_RESERVED_ROWS, PAD, SensorVocabulary


class CasitaProcessorKwargs(ProcessingKwargs, total=False):
    """Options of a call.

    cut: cut a stream into windows as the processor's settings say (default); False keeps it as one window.
    unknown: what to do with a sensor or state that the vocabulary lacks: "error" (default), "skip" the event, or
        "unk": give it the row for the unknown.
    return_windows: add the events of each window: `windows` `(B, 2)`, first event and one past the last, counted in
        the sorted stream; and `events` `(B, L)`, each event's place in the input, -1 for padding.
    """

    cut: bool
    unknown: str
    return_windows: bool


class CasitaProcessor(ProcessorMixin):
    """A processor of events `(timestamp, sensor, state)` into rows of a home's embedding table.

    Args:
        vocab: the keys `"M001_ON"` in the order of the table's rows; row 3 is the first one's.
        home: the home whose events are read when a call names none.
        homes: names of the homes, where the vocabulary holds several: its keys, and the sensors in `coordinates`,
            `rooms` and `levels`, then carry the home's name, `"milan/M001_ON"`.
        coordinates: sensor -> [x, y] in [0, 1], the fraction of the plan's width and height.
        rooms: sensor -> room.
        levels: numeric sensor -> [low, high], the bounds by which a reading becomes LOW, NORMAL or HIGH.
        length, overlap, max_gap_min: how a stream is cut into windows: events, share, minutes of silence that end one.
        strategy, duration_s, durations_s, max_events, seed: windows by duration instead (see `Windowing`), the same
            ones as the dataset's. (Of a dataset that was cut by its labels too, without them.)
        use_time_deltas, use_coordinates, use_timestamps: which optional tensors the model reads.
        text_model: the sentence model that the texts of this model must go through.
        text_prompt_name: which of the sentence model's prompts stands before each text; None: its own default.
        label_prompts: activity -> sentences that describe it, for zero-shot answers.
        vision_model: the model that embedded the pictures.
    """

    valid_processor_kwargs = CasitaProcessorKwargs

    # Positional-or-keyword throughout: transformers drops keyword-only arguments when it loads a processor.
    def __init__(
        self,
        vocab: Sequence[str] | None = None,
        home: str | None = None,
        homes: Sequence[str] | None = None,
        coordinates: Mapping[str, Sequence[float]] | None = None,
        rooms: Mapping[str, str] | None = None,
        levels: Mapping[str, Sequence[float]] | None = None,
        length: int = 20,
        overlap: float = 0.5,
        max_gap_min: float | None = 30.0,
        use_time_deltas: bool = False,
        use_coordinates: bool = False,
        use_timestamps: bool = False,
        text_model: str | None = None,
        label_prompts: Mapping[str, Sequence[str]] | None = None,
        vision_model: str | None = None,
        text_prompt_name: str | None = None,
        strategy: str = "fixed_length",
        duration_s: float | None = None,
        durations_s: Sequence[float] | None = None,
        max_events: int | None = None,
        seed: int = 0,
        **kwargs,
    ):
        self.vocab = list(vocab or [])
        self.home = home
        self.homes = list(homes or [])
        self.coordinates = {sensor: list(xy) for sensor, xy in (coordinates or {}).items()}
        self.rooms = dict(rooms or {})
        self.levels = {sensor: list(bounds) for sensor, bounds in (levels or {}).items()}
        self.length = length
        self.overlap = overlap
        self.max_gap_min = max_gap_min
        self.strategy = strategy
        self.duration_s = duration_s
        self.durations_s = None if durations_s is None else list(durations_s)
        self.max_events = max_events
        self.seed = seed
        self.use_time_deltas = use_time_deltas
        self.use_coordinates = use_coordinates
        self.use_timestamps = use_timestamps
        self.text_model = text_model
        self.text_prompt_name = text_prompt_name
        self.label_prompts = {label: list(prompts) for label, prompts in (label_prompts or {}).items()}
        self.vision_model = vision_model
        super().__init__(**kwargs)
        SensorVocabulary(self.vocab, self.levels, self.homes)  # refuses a key twice
        _ = self._windowing  # refuses settings that contradict each other

    @property
    def _windowing(self) -> Windowing:
        """Return the settings by which a stream is cut, of today's attributes."""
        settings = {name: getattr(self, name) for name in STREAM_SETTINGS}
        settings["durations_s"] = None if self.durations_s is None else tuple(self.durations_s)
        return Windowing(**settings)

    @property
    def _vocabulary(self) -> SensorVocabulary:
        """Return the lookup of today's attributes: they may be set at any time, and this costs microseconds."""
        return SensorVocabulary(self.vocab, self.levels, self.homes)

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments of `__init__`, as `processor_config.json` holds them."""
        return {name: value for name, value in super().to_dict().items() if not name.startswith("_")}

    @property
    def model_input_names(self) -> list[str]:
        """Return the names of the tensors that the model reads."""
        optional = {
            "time_deltas": self.use_time_deltas,
            "coordinates": self.use_coordinates,
            "timestamps": self.use_timestamps,
        }
        return ["input_ids", "attention_mask", *(name for name, used in optional.items() if used)]

    def __call__(
        self, events: Any = None, home: str | None = None, **kwargs: Unpack[CasitaProcessorKwargs]
    ) -> BatchFeature:
        """Encode one stream, or many windows.

        Args:
            events: one stream, as a DataFrame, Arrow table or dict of columns `timestamp`, `sensor`, `state` (and
                `session`, which windows do not cross), or a list of `(timestamp, sensor, state)` or of such dicts;
                it is cut into windows. Or a list of such streams: each is one window, as it is.
            home: whose events these are; needed where the processor holds several homes and has no `home` of its own.
            return_tensors: "pt" or "np" (default).

        Returns:
            `input_ids` and `attention_mask` `(B, L)` int64, and as the model wants them `time_deltas` `(B, L)` seconds
            since the previous event, `coordinates` `(B, L, 2)`, `timestamps` `(B, L)` seconds since the first event.

        Raises:
            ValueError: no events, a column that is missing, or a home, sensor or state that the vocabulary lacks.
        """
        merged: dict[str, Any] = self._merge_kwargs(**kwargs)
        text_kwargs = merged["text_kwargs"]
        stream = self.stream(events, merged.get("cut", True), merged.get("unknown", "error"), home)
        if not len(stream.row):
            raise ValueError("no event is left: the vocabulary knows none of them. Is this the home's own table?")
        pad_to = text_kwargs.get("max_length") if text_kwargs.get("padding") == "max_length" else None
        index, mask = _slots(stream, pad_to, text_kwargs.get("padding_side") or "right")
        data: dict[str, Any] = self._tensors(stream, index, mask)
        if merged.get("return_windows"):
            data["windows"] = np.stack([stream.first, stream.last], axis=1)
            data["events"] = np.where(mask, stream.order[index], -1)
        return BatchFeature(data, tensor_type=text_kwargs.get("return_tensors") or "np")

    def stream(self, events: Any, cut: bool = True, unknown: str = "error", home: str | None = None) -> EventStream:
        """Sort events, look their rows up, and cut them into windows; many windows stay as they are.

        The arguments are those of a call.
        """
        home = self._home(home)
        many = is_many(events)
        columns, window = window_columns(events) if many else (event_columns(events), None)
        row = self._vocabulary.rows(columns, home, unknown)
        order = np.lexsort((columns.t_us, columns.session))
        order = order[row[order] >= 0]
        t_us = columns.t_us[order]
        row = row[order]
        if window is not None:
            last = np.cumsum(np.bincount(window[order], minlength=len(events)))
            first = np.concatenate([[0], last[:-1]])
            if (empty := first == last).any():
                raise ValueError(f"window {int(empty.argmax())} has no events left. Leave it out.")
        elif cut:
            first, last = self._windowing.cut(t_us, columns.session[order])
        else:
            first = np.zeros(1, dtype=np.int64)
            last = np.full(1, len(row))
        return EventStream(t_us, row, order, first, last)

    def tensors(self, stream: EventStream) -> dict[str, np.ndarray]:
        """Make the model's inputs for all windows of `stream`, padded on the right to the longest."""
        return self._tensors(stream, *_slots(stream))

    def encode_windows(self, sensor_keys: Any, seconds: Any, home: str | None = None) -> dict[str, np.ndarray]:
        """Make the model's inputs for windows that are cut already, padded on the right to the longest.

        `sensor_keys` and `seconds` are the list columns of a windows table (Arrow, or lists of lists).
        """
        keys, lengths = _flatten(sensor_keys)
        flat_s, _ = _flatten(seconds)
        row = self._vocabulary.key_rows(keys, self._home(home))
        last = np.cumsum(lengths)
        index, mask = window_index(last - lengths, last)
        flat_s = np.asarray(flat_s, dtype=np.float64)
        return self._features(np.where(mask, row[index], PAD), mask, np.where(mask, flat_s[index], 0.0))

    def decode(self, ids: Any) -> list[list[dict[str, Any]]]:
        """Turn rows `(B, L)` back into events, `{"home", "sensor", "state", "room"}`, without padding.

        Reserved rows give None.
        """
        return [[self._event(int(i)) for i in row if i != PAD] for row in np.atleast_2d(np.asarray(ids))]

    def set_home(
        self,
        model: Any,
        table: SensorEmbeddingTable | str | os.PathLike,
        layout: Mapping[str, Any] | str | os.PathLike | None = None,
        levels: Mapping[str, Any] | None = None,
    ) -> None:
        """Move model and processor into another home: no training, no weight changes. Both move, or neither does.

        Args:
            model: any Casita model that reads image embeddings.
            table: the home's embeddings by the model's own vision model: a table, or what `SensorEmbeddingTable.load`
                takes (a file, a model directory, a Hub id).
            layout: the home's layout or its JSON file: gives places and rooms; needed with `use_coordinates`.
            levels: numeric sensor -> (low, high); without it, readings of numeric sensors are unknown states.

        With a table of several homes (`SensorEmbeddingTable.concatenate`), `layout` and `levels` map the name of each
        home to its own, and calls say `home=`.

        Raises:
            FileNotFoundError, ValueError: the table is not of the kind that the model was trained on, or layout or
                levels do not fit it. Nothing has changed then.
        """
        if isinstance(table, (str, os.PathLike)):
            table = SensorEmbeddingTable.load(table)
        vocabulary = SensorVocabulary(table.keys, {}, table.homes)
        facts = home_facts(vocabulary, layout, levels)
        lost = [sensor for sensor in vocabulary.sensors() if sensor not in facts["coordinates"]]
        if self.use_coordinates and lost:
            raise ValueError(f"the model reads coordinates: give the layout of the home with sensor {lost[0]!r}.")
        model.set_sensor_embeddings(table)  # refuses before it changes anything; from here on nothing can fail
        self.vocab = list(table.keys)
        self.homes = list(table.homes)
        self.home = None if table.homes else table.home
        self.coordinates = facts["coordinates"]
        self.rooms = facts["rooms"]
        self.levels = facts["levels"]
        self.vision_model = table.vision_model

    def _home(self, home: str | None) -> str | None:
        """Return the home whose events a call reads."""
        chosen = self.home if home is None else home
        known: list[str | None] = [*self.homes] or [self.home]
        if chosen in known:
            return chosen
        if chosen is None:
            raise ValueError(f"the processor holds several homes: say whose events these are, home={self.homes[0]!r}.")
        names = ", ".join(map(repr, known))
        raise ValueError(f"home={chosen!r} is unknown; known: {names}. Move there: processor.set_home(model, table).")

    def _tensors(self, stream: EventStream, index: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Turn `(B, L)` events of the stream and their mask into what the model's forward takes."""
        seconds = (stream.t_us[index] - stream.t_us[stream.first][:, None]) / 1e6
        return self._features(np.where(mask, stream.row[index], PAD), mask, np.where(mask, seconds, 0.0))

    def _features(self, ids: np.ndarray, mask: np.ndarray, seconds: np.ndarray) -> dict[str, np.ndarray]:
        """Turn `(B, L)` rows, mask and seconds since the window's start into what the model's forward takes."""
        features = {"input_ids": ids.astype(np.int64), "attention_mask": mask}
        if self.use_time_deltas:
            # Left padding holds zeros, so the first event is taken out by its mask, not by its place.
            delta = np.diff(seconds, axis=1, prepend=0.0)
            features["time_deltas"] = np.where(mask, delta, 0.0).astype(np.float32)
        if self.use_coordinates:
            features["coordinates"] = self._row_coordinates()[ids]
        if self.use_timestamps:
            features["timestamps"] = seconds.astype(np.float32)
        return features

    def _row_coordinates(self) -> np.ndarray:
        """Return `(V, 2)` coordinates of each row's sensor, the middle of the plan for the reserved rows."""
        coordinates = np.full((NUM_RESERVED_ROWS + len(self.vocab), 2), 0.5, dtype=np.float32)
        for row, key in enumerate(self.vocab, start=NUM_RESERVED_ROWS):
            sensor = key.rpartition("_")[0]
            if sensor not in self.coordinates:
                raise ValueError(f"sensor {sensor!r} has no coordinates, but the model reads them. Give the layout.")
            coordinates[row] = self.coordinates[sensor]
        return coordinates

    def _event(self, row: int) -> dict[str, Any]:
        if not NUM_RESERVED_ROWS <= row < NUM_RESERVED_ROWS + len(self.vocab):
            return {"home": None, "sensor": None, "state": None, "room": None}
        sensor, _, state = self.vocab[row - NUM_RESERVED_ROWS].rpartition("_")
        home, _, name = sensor.partition("/") if self.homes else (self.home, "", sensor)
        return {"home": home, "sensor": name, "state": state, "room": self.rooms.get(sensor)}


def _slots(stream: EventStream, pad_to: int | None = None, side: str = "right") -> tuple[np.ndarray, np.ndarray]:
    """Return `(B, L)` index of each slot's event and int64 mask; at least `pad_to` slots, padding on `side`."""
    index, mask = window_index(stream.first, stream.last)
    if (extra := (pad_to or 0) - mask.shape[1]) > 0:
        index = np.pad(index, ((0, 0), (0, extra)), mode="edge")
        mask = np.pad(mask, ((0, 0), (0, extra)))
    if side == "left":
        num_slots = mask.shape[1]
        padding = num_slots - mask.sum(axis=1, keepdims=True)
        source = (np.arange(num_slots) - padding) % num_slots  # the slots, each row rolled to the right by its padding
        index = np.take_along_axis(index, source, axis=1)
        mask = np.take_along_axis(mask, source, axis=1)
    return index, mask


def _flatten(column: Any) -> tuple[Any, np.ndarray]:
    """Flatten a list column `(B, ragged)` to its values and `(B,)` lengths."""
    if hasattr(column, "combine_chunks"):
        column = column.combine_chunks()
    if hasattr(column, "value_lengths"):
        return column.flatten(), np.asarray(column.value_lengths()).astype(np.int64)
    rows: Iterable[Sequence[Any]] = list(column)
    return [value for row in rows for value in row], np.array([len(row) for row in rows], dtype=np.int64)


__all__ = ["CasitaProcessor"]
