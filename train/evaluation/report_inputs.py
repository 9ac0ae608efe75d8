"""The inputs of a report beside the numbers of `results.json`: the test windows themselves, and every answer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from casita.datasets_scripts.layouts.layout import Layout
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.evaluation.probes import Prediction, Task


@dataclass(frozen=True)
class Query:
    """A sentence written by hand for the activity `label`, and `scores` `(N,)`: how well each test window fits it."""

    text: str
    label: str
    scores: np.ndarray


@dataclass(frozen=True)
class ReportInputs:
    """The N test windows of the headline protocol, all arrays in the order of `windows`.

    Attributes:
        windows: WINDOWS, test split only.
        captions: one a window.
        base: `(N, C)` the frozen embedding that probes read.
        sensor, text: `(N, P)` unit rows of windows and captions in the shared space.
        layout: the home's; one without sensors when it has none.
        table: the frozen rows of this home's sensor states; None where the model learned its own.
        answers: variant -> method -> seed -> what was predicted.
        tasks: variant -> the task that was answered.
        metrics: the lines of the run's `metrics.jsonl`.
        queries: written sentences against the windows.
    """

    windows: pa.Table
    captions: list[str]
    base: np.ndarray
    sensor: np.ndarray
    text: np.ndarray
    layout: Layout
    table: SensorEmbeddingTable | None
    answers: Mapping[str, Mapping[str, Mapping[str, Prediction]]]
    tasks: Mapping[str, Task]
    metrics: Sequence[Mapping[str, Any]] = ()
    queries: Sequence[Query] = field(default_factory=list)

    @property
    def activities(self) -> list[str | None]:
        """Return each window's label, None where it has none."""
        return self.windows["activity"].to_pylist()

    @property
    def rooms(self) -> dict[str, str]:
        """Return the room of each sensor of the layout."""
        return {name: sensor["room"] for name, sensor in self.layout["sensors"].items()}

    def true_and_predicted(self, method: str) -> tuple[list[str], list[str]]:
        """Return the labels of the labelled test windows, and what the method's first seed predicted."""
        task = self.tasks["labelled"]
        first_seed = next(iter(self.answers["labelled"][method].values()))
        return task.y[task.test].tolist(), first_seed.labels


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's `metrics.jsonl`, none where there is no such file; a line that is no JSON is named."""
    lines = []
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}:{number}: expected a JSON object ({error}). Remove the line or the file."
            ) from None
    return lines
