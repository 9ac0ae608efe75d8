"""A stream of events as they happen: the same windows and vectors as of the recording in one piece."""

from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import torch


class CasitaStream:
    """A model that takes one event after another, with a result when a window is full or ended by a silence.

    Only the last `length` events are kept, and the model runs only when a result is due. The results are those of the
    pipeline `sensor-embedding` over the same events in one piece: a window every `every` events, a shorter last one
    where a silence of more than the processor's `max_gap_min` minutes or `flush()` ends the run. A stream counts
    events: where the processor cuts by duration, say `length` and `every`.

    Args:
        model: a `CasitaModel` in eval mode.
        processor: its `CasitaProcessor`.
        length: events of a window; the processor's by default.
        every: events from one result to the next, at most `length`; by default length * (1 - the processor's overlap).
        unknown: a sensor or state that the vocabulary lacks: "error", "skip" the event, or "unk", as in the processor.
        home: whose events these are, where the processor holds several homes.

    Attributes:
        due_in: events until the next result, unless a silence comes first.

    Raises:
        ValueError: `every` or `length` out of bounds, or not given while the processor cuts by duration; or a model in
            training mode.
    """

    due_in: int

    def __init__(
        self,
        model: Any,
        processor: Any,
        length: int | None = None,
        every: int | None = None,
        unknown: str = "error",
        home: str | None = None,
    ):
        refuse_training_mode(model)
        self.model = model
        self.processor = processor
        self.unknown = unknown
        self.home = home
        if processor.strategy != "fixed_length" and (length is None or every is None):
            raise ValueError(
                f"the processor cuts by duration (strategy={processor.strategy!r}), a stream counts events. Give "
                "length= and every=, or hand whole recordings to the pipeline sensor-embedding."
            )
        self.length = processor.length if length is None else length
        self.every = max(1, round(self.length * (1 - processor.overlap))) if every is None else every
        if not 1 <= self.every <= self.length:
            raise ValueError(
                f"length={self.length} must be at least 1 and every={self.every} between 1 and length: an event that "
                "no window holds would be lost."
            )
        self._gap_us = float("inf") if processor.max_gap_min is None else processor.max_gap_min * 60e6
        self._last: Any = None  # the newest event, as the processor's own stream of one
        self._restart()

    def push(self, event: Any) -> dict[str, Any] | None:
        """Take an event, `(timestamp, sensor, state)` or a dict of these; return the result that it makes due, if any.

        At most one: after a silence the event ends the window before it, else it may fill its own.

        Returns:
            `start` and `end` (datetimes of the first and last event), `events` (their number), `vector` `(P,)`.

        Raises:
            ValueError: an event before the newest one, or an unknown sensor; the stream is as it was before.
        """
        one = self.processor.stream([event], cut=False, unknown=self.unknown, home=self.home)
        if not len(one.row):
            return None  # unknown, to be skipped
        t_us = int(one.t_us[0])
        if self._t_us and t_us < self._t_us[-1]:
            raise ValueError(
                f"event {event!r} is {(self._t_us[-1] - t_us) / 1e6:g} s before the newest one. Sort events before "
                "they are pushed, or flush() first when another recording begins."
            )
        silent = bool(self._t_us) and t_us - self._t_us[-1] > self._gap_us
        result = self.flush() if silent else None
        self._t_us.append(t_us)
        self._row.append(int(one.row[0]))
        self._last = one
        self._unreported = True
        self.due_in -= 1
        if not self.due_in:
            result = self._encode(self.length)
            self.due_in = self.every
            self._unreported = False
        return result

    def flush(self) -> dict[str, Any] | None:
        """End the run, as at the end of a recording; return the window that events are waiting for, if any."""
        result = self._encode(self.length - self.due_in) if self._unreported else None
        self._restart()
        return result

    def __len__(self) -> int:
        """Return the number of events that are kept, at most `length`."""
        return len(self._row)

    def _restart(self) -> None:
        self.due_in = self.length
        self._unreported = False  # whether events came since the last result
        self._t_us: deque[int] = deque(maxlen=self.length)
        self._row: deque[int] = deque(maxlen=self.length)

    def _encode(self, events: int) -> dict[str, Any]:
        """Encode the newest `events` events as one window."""
        refuse_training_mode(self.model)
        window = replace(
            self._last,
            t_us=np.array(self._t_us)[-events:],
            row=np.array(self._row)[-events:],
            order=np.arange(events),
            first=np.array([0]),
            last=np.array([events]),
        )
        tensors = self.processor.tensors(window)
        inputs = {name: torch.from_numpy(array).to(self.model.device) for name, array in tensors.items()}
        with torch.inference_mode():
            vectors = self.model(**inputs).sensor_embeds.float().cpu().numpy()
        return window_rows(window, vector=vectors)[0]


def window_rows(stream: Any, **columns: Any) -> list[dict[str, Any]]:
    """Make a row of each window: `start`, `end`, `events`, and a value of each of `columns`, all of length B."""
    starts = stream.start.tolist()
    ends = stream.end.tolist()
    sizes = (stream.last - stream.first).tolist()
    return [
        {"start": start, "end": end, "events": size, **dict(zip(columns, values, strict=True))}
        for start, end, size, *values in zip(starts, ends, sizes, *columns.values(), strict=True)
    ]


def refuse_training_mode(model: Any) -> None:
    """Raise `ValueError` for a model in training mode."""
    if model.training:
        raise ValueError("the model is in training mode, so dropout would blur its answers. Call model.eval() first.")


__all__ = ["CasitaStream"]
