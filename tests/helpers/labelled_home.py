"""The home of `train_home` with events and a split that an evaluation accepts."""

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
from train_home import make_home

from casita.datasets_scripts.schema import EVENTS, WINDOWS, HomeFolder, read_table, write_table


def make_labelled_home(root: Path, seed: int = 0) -> HomeFolder:
    """Two of three windows have the activity `in_ROOM`, which the sensors show; no event is in two windows."""
    home = make_home(root, seed)
    windows = read_table(home.windows, WINDOWS).to_pylist()
    rewrite(home, [row | {"end": row["start"] + timedelta(minutes=30)} for row in windows])
    return home


def rewrite(home: HomeFolder, windows: list[dict]) -> None:
    """These windows, split chronologically, and their events."""
    columns = {name: [row[name] for row in windows] for name in WINDOWS.names}
    metadata = {"sampling": {"split": "chronological"}}
    write_table(home.windows, pa.table(columns, schema=WINDOWS), WINDOWS, metadata)
    events = [
        {"home": row["home"], "session": row["session"], "timestamp": row["start"], "sensor": "M1", "state": "ON"}
        for row in windows
    ]
    rows = [{name: event.get(name) for name in EVENTS.names} | {"activities": []} for event in events]
    write_table(home.events, pa.Table.from_pylist(rows, schema=EVENTS), EVENTS)
