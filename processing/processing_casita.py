"""Events to tensors: the processor that stands beside every Casita model."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack

from .event_streams import EventStream, concatenate_streams, event_columns, is_many
from .event_windows import cut_fixed_length, level_of, run_starts, window_index
from .sensor_embeddings import SensorEmbeddingTable
from .sensor_states import normalize_state

PAD, UNK, MASK = 0, 1, 2
NUM_RESERVED_ROWS = 3  # the same number as in the model's configuration; a test holds them together


class CasitaProcessorKwargs(ProcessingKwargs, total=False):
    """What a call can change.

    cut: cut a stream into windows of the processor's `length` (default); False keeps it as one window.
    unknown: what to do with a sensor or state that the vocabulary lacks: "error" (default), "skip" the event, or
        "unk": give it the row for the unknown.
    return_windows: add `windows` `(B, 2)`: first event and one past the last, counted in the sorted stream.
    """

    cut: bool
    unknown: str
    return_windows: bool


class CasitaProcessor(ProcessorMixin):
    """Turns events `(timestamp, sensor, state)` into rows of a home's embedding table.

    Args:
        vocab: the keys `"M001_ON"` in the order of the table's rows; row 3 is the first one's.
        home: the home's name.
        coordinates: sensor -> [x, y] in [0, 1], the fraction of the plan's width and height.
        rooms: sensor -> room.
        levels: numeric sensor -> [low, high], the bounds by which a reading becomes LOW, NORMAL or HIGH.
        length, overlap, max_gap_min: how a stream is cut into windows: events, share, minutes of silence that end one.
        use_time_deltas, use_coordinates, use_timestamps: which optional tensors the model reads.
        text_model: the sentence model that the texts of this model must go through.
        label_prompts: activity -> sentences that describe it, for zero-shot answers.
        vision_model: the model that embedded the pictures.
    """

    valid_processor_kwargs = CasitaProcessorKwargs

    # Positional-or-keyword throughout: transformers drops keyword-only arguments when it loads a processor.
    def __init__(
        self,
        vocab: Sequence[str] | None = None,
        home: str | None = None,
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
        **kwargs,
    ):
        self.vocab = list(vocab or [])
        self.home = home
        self.coordinates = {sensor: list(xy) for sensor, xy in (coordinates or {}).items()}
        self.rooms = dict(rooms or {})
        self.levels = {sensor: list(bounds) for sensor, bounds in (levels or {}).items()}
        self.length = length
        self.overlap = overlap
        self.max_gap_min = max_gap_min
        self.use_time_deltas = use_time_deltas
        self.use_coordinates = use_coordinates
        self.use_timestamps = use_timestamps
        self.text_model = text_model
        self.label_prompts = {label: list(prompts) for label, prompts in (label_prompts or {}).items()}
        self.vision_model = vision_model
        super().__init__(**kwargs)
        if len(set(self.vocab)) != len(self.vocab):
            raise ValueError("vocab holds a key twice; each sensor state has one row.")
        self._row = {key: NUM_RESERVED_ROWS + i for i, key in enumerate(self.vocab)}

    def to_dict(self) -> dict[str, Any]:
        """What `processor_config.json` holds: the arguments of `__init__`."""
        return {name: value for name, value in super().to_dict().items() if not name.startswith("_")}

    @property
    def model_input_names(self) -> list[str]:
        optional = {
            "time_deltas": self.use_time_deltas,
            "coordinates": self.use_coordinates,
            "timestamps": self.use_timestamps,
        }
        return ["input_ids", "attention_mask", *(name for name, used in optional.items() if used)]

    def __call__(self, events: Any = None, **kwargs: Unpack[CasitaProcessorKwargs]) -> BatchFeature:
        """Encode one stream, or many windows.

        Args:
            events: one stream, as a DataFrame or Arrow table with columns `timestamp`, `sensor`, `state` (and
                `session`, which windows do not cross), or a list of `(timestamp, sensor, state)` or of such dicts;
                it is cut into windows. Or a list of such streams: each is one window, as it is.
            return_tensors: "pt" or "np" (default).

        Returns:
            `input_ids` and `attention_mask` `(B, L)` int64, and as the model wants them `time_deltas` `(B, L)` seconds
            since the previous event, `coordinates` `(B, L, 2)`, `timestamps` `(B, L)` seconds since the first event.

        Raises:
            ValueError: no events, a column that is missing, or a sensor or state that the vocabulary lacks.
        """
        merged: dict[str, Any] = self._merge_kwargs(**kwargs)
        text_kwargs, unknown = merged["text_kwargs"], merged.get("unknown", "error")
        if is_many(events):
            streams = [self.stream(window, cut=False, unknown=unknown) for window in events]
            for i, stream in enumerate(streams):
                if not len(stream.row):
                    raise ValueError(f"window {i} has no events left. Leave it out.")
            stream = concatenate_streams(streams)
        else:
            stream = self.stream(events, cut=merged.get("cut", True), unknown=unknown)
        data: dict[str, Any] = self.tensors(
            stream,
            pad_to=text_kwargs.get("max_length") if text_kwargs.get("padding") == "max_length" else None,
            side=text_kwargs.get("padding_side") or "right",
        )
        if merged.get("return_windows"):
            data["windows"] = np.stack([stream.first, stream.last], axis=1)
        return BatchFeature(data, tensor_type=text_kwargs.get("return_tensors") or "np")

    def stream(self, events: Any, cut: bool = True, unknown: str = "error") -> EventStream:
        """Sort one stream, look its sensors up, and cut it into windows (`cut=False`: one window)."""
        if unknown not in ("error", "skip", "unk"):
            raise ValueError(f'unknown={unknown!r} is none of "error", "skip", "unk".')
        t_us, sensors, states, session = event_columns(events)
        row = self._rows(sensors, states, unknown)
        order = np.lexsort((t_us, session))
        order = order[row[order] >= 0]
        t_us, row, session = t_us[order], row[order], session[order]
        if cut:
            gap_s = None if self.max_gap_min is None else self.max_gap_min * 60
            starts = run_starts(t_us, session, max_gap_s=gap_s)
            first, last = cut_fixed_length(starts, len(row), length=self.length, overlap=self.overlap)
        else:
            first, last = np.zeros(1, dtype=np.int64), np.full(1, len(row))
        return EventStream(t_us, row, order, first, last)

    def tensors(self, stream: EventStream, pad_to: int | None = None, side: str = "right") -> dict[str, np.ndarray]:
        """The model's inputs for all windows of `stream`; `pad_to` events at least, padding on `side`."""
        index, mask = window_index(stream.first, stream.last)
        if (extra := (pad_to or 0) - mask.shape[1]) > 0:
            index, mask = np.pad(index, ((0, 0), (0, extra)), mode="edge"), np.pad(mask, ((0, 0), (0, extra)))
        if side == "left":
            shift = (np.arange(mask.shape[1])[None, :] - (mask.shape[1] - mask.sum(axis=1))[:, None]) % mask.shape[1]
            index, mask = np.take_along_axis(index, shift, axis=1), np.take_along_axis(mask, shift, axis=1)
        seconds = (stream.t_us[index] - stream.t_us[stream.first][:, None]) / 1e6
        return self._features(np.where(mask, stream.row[index], PAD), mask, np.where(mask, seconds, 0.0))

    def encode_windows(self, sensor_keys: Any, seconds: Any) -> dict[str, np.ndarray]:
        """The model's inputs for windows that are cut already: the list columns `sensor_keys` and `seconds` of a
        windows table (Arrow, or lists of lists), padded on the right to the longest."""
        keys, lengths = _flatten(sensor_keys)
        flat_s, _ = _flatten(seconds)
        row = self._key_rows(keys)
        last = np.cumsum(lengths)
        index, mask = window_index(last - lengths, last)
        flat_s = np.asarray(flat_s, dtype=np.float64)
        return self._features(np.where(mask, row[index], PAD), mask, np.where(mask, flat_s[index], 0.0))

    def decode(self, ids: Any) -> list[list[dict[str, Any]]]:
        """Rows `(B, L)` back to events: `{"sensor", "state", "room"}`; padding left out, None for reserved rows."""
        return [[self._event(int(i)) for i in row if i != PAD] for row in np.atleast_2d(np.asarray(ids))]

    def set_home(self, table: SensorEmbeddingTable, layout: Mapping[str, Any] | None = None) -> None:
        """Move to another home: the vocabulary of its table and, from its layout, places and rooms.

        The model's side of the same step is `model.set_sensor_embeddings(table)`.
        """
        self.vocab, self.home = list(table.keys), table.home
        self._row = {key: NUM_RESERVED_ROWS + i for i, key in enumerate(self.vocab)}
        self.coordinates, self.rooms = {}, {}
        for sensor, told in (layout or {}).get("sensors", {}).items():
            width, height = layout["size"]  # type: ignore[index]
            self.coordinates[sensor] = [told["x"] / width, told["y"] / height]
            self.rooms[sensor] = told["room"]

    def _features(self, ids: np.ndarray, mask: np.ndarray, seconds: np.ndarray) -> dict[str, np.ndarray]:
        """`(B, L)` rows, mask and seconds since the window's start to what the model's forward takes."""
        features = {"input_ids": ids.astype(np.int64), "attention_mask": mask}
        if self.use_time_deltas:
            # Left padding holds zeros, so the first event is taken out by its mask, not by its place.
            delta = np.diff(seconds, axis=1, prepend=0.0)
            features["time_deltas"] = np.where(mask, delta, 0.0).astype(np.float32)
        if self.use_coordinates:
            features["coordinates"] = self._places()[ids]
        if self.use_timestamps:
            features["timestamps"] = seconds.astype(np.float32)
        return features

    def _places(self) -> np.ndarray:
        """`(V, 2)` coordinates of each row's sensor, the middle of the plan for the reserved rows."""
        places = np.full((NUM_RESERVED_ROWS + len(self.vocab), 2), 0.5, dtype=np.float32)
        for key, row in self._row.items():
            sensor = key.rsplit("_", 1)[0]
            if sensor not in self.coordinates:
                raise ValueError(
                    f"sensor {sensor!r} of home {self.home!r} has no coordinates, but the model reads them."
                )
            places[row] = self.coordinates[sensor]
        return places

    def _rows(self, sensors: Sequence[str], states: Sequence[Any], unknown: str) -> np.ndarray:
        """`(N,)` row of each event; -1 marks one to be skipped."""
        missing: dict[str, str] = {}
        skip = {"skip": -1, "unk": UNK, "error": -1}[unknown]

        class Rows(dict):
            def __missing__(rows, pair):  # `self` is the processor
                key = self._key(*pair)
                row = self._row.get(key)
                if row is None:
                    missing[key] = pair[0]
                    row = skip
                rows[pair] = row
                return row

        lookup = Rows()  # one look at each distinct pair; the list comprehension does the rest at C speed
        rows = np.array([lookup[pair] for pair in zip(sensors, states, strict=True)], dtype=np.int64)
        if missing and unknown == "error":
            raise ValueError(self._unknown_message(missing))
        return rows

    def _key(self, sensor: str, state: Any) -> str:
        text = normalize_state(str(state))
        if sensor in self.levels:
            try:
                text = str(level_of(np.asarray(float(text)), *self.levels[sensor]))
            except ValueError:
                raise ValueError(f"sensor {sensor!r} gives numbers, but here it gave {state!r}.") from None
        return f"{sensor}_{text}"

    def _key_rows(self, keys: Any) -> np.ndarray:
        """`(N,)` rows of `(N,)` keys (Arrow strings or a list); all must be known."""
        if hasattr(keys, "dictionary_encode"):
            encoded = keys.dictionary_encode()
            distinct, code = encoded.dictionary.to_pylist(), np.asarray(encoded.indices)
        else:
            distinct, code = np.unique(np.asarray(keys, dtype=object).astype(str), return_inverse=True)
        missing = {str(key): str(key).rsplit("_", 1)[0] for key in distinct if key not in self._row}
        if missing:
            raise ValueError(self._unknown_message(missing))
        return np.array([self._row[key] for key in distinct], dtype=np.int64)[code]

    def _unknown_message(self, missing: Mapping[str, str]) -> str:
        """One line for keys that the vocabulary lacks: which, what is near, and the ways out."""
        key, sensor = next(iter(missing.items()))
        states = [known.rsplit("_", 1)[1] for known in self.vocab if known.rsplit("_", 1)[0] == sensor]
        if states:
            what = f"state {key[len(sensor) + 1 :]!r} of sensor {sensor!r} is unknown; its states: {', '.join(states)}"
        else:
            known_sensors = list(dict.fromkeys(known.rsplit("_", 1)[0] for known in self.vocab))
            near = difflib.get_close_matches(sensor, known_sensors, n=3, cutoff=0.4) or known_sensors[:3]
            what = f"sensor {sensor!r} is unknown; nearest in name: {', '.join(near)}"
        more = f" ({len(missing) - 1} more such keys)" if len(missing) > 1 else ""
        return (
            f"home {self.home!r}: {what}{more}. Give the home's own table, or pass "
            'unknown="skip" to leave such events out, or unknown="unk" to read them as unknown.'
        )

    def _event(self, row: int) -> dict[str, Any]:
        if not NUM_RESERVED_ROWS <= row < NUM_RESERVED_ROWS + len(self.vocab):
            return {"sensor": None, "state": None, "room": None}
        sensor, state = self.vocab[row - NUM_RESERVED_ROWS].rsplit("_", 1)
        return {"sensor": sensor, "state": state, "room": self.rooms.get(sensor)}


def _flatten(column: Any) -> tuple[Any, np.ndarray]:
    """A list column `(B, ragged)` as flat values and `(B,)` lengths."""
    if hasattr(column, "combine_chunks"):
        column = column.combine_chunks()
    if hasattr(column, "value_lengths"):
        return column.flatten(), np.asarray(column.value_lengths()).astype(np.int64)
    rows: Iterable[Sequence[Any]] = list(column)
    return [value for row in rows for value in row], np.array([len(row) for row in rows], dtype=np.int64)


__all__ = ["CasitaProcessor"]
