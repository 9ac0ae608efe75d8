"""Tables of events made by hand, with a layout of three sensors."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa

from casita.datasets_scripts.schema import EVENTS

LAYOUT = {
    "home": "toy",
    "size": [100, 100],
    "sensors": {
        "M001": {"x": 10, "y": 10, "room": "kitchen", "type": "motion"},
        "M002": {"x": 90, "y": 90, "room": "bedroom", "type": "motion"},
        "T001": {"x": 50, "y": 50, "room": "hall", "type": "temperature"},
    },
}


def make_events(days=10, per_day=120, session=None, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for day in range(days):
        name = session or "log"
        offsets = np.sort(rng.integers(0, 20 * 3600, per_day))
        for i, offset in enumerate(offsets):
            stamp = datetime(2024, 1, 1, 4) + timedelta(days=day, seconds=int(offset))
            sensor = ["M001", "M002", "T001"][i % 3]
            value = 15.0 + i % 7 if sensor == "T001" else None
            label = ["cook", None, "sleep"][(i // 40) % 3]
            state = "ON" if value is None else str(value)
            rows.append(("toy", name, stamp, sensor, state, value, label, [label] if label else []))
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, EVENTS, strict=True)]
    return pa.table(dict(zip(EVENTS.names, arrays, strict=True)))
