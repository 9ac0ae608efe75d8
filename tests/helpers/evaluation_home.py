"""A made-up home whose sensors show its activities, for evaluations."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa

from casita.datasets_scripts.captions.text_embeddings import embed_texts, load_text_model
from casita.datasets_scripts.schema import (
    CAPTIONS,
    EVENTS,
    WINDOWS,
    HomeFolder,
    read_table,
    text_embeddings_schema,
    write_table,
)
from casita.datasets_scripts.windows.cut import WindowSettings, cut_home

PLACES = {"Sleep": "M001", "Cook": "M002", "Watch_TV": "M003", "Wash_Dishes": "M004"}


SENSORS = [f"M{i:03d}" for i in range(1, 8)]


LAYOUT = {
    "home": "small",
    "size": [400, 300],
    "rooms": {},
    "sensors": {
        s: {"x": 50 * i, "y": 40 * i, "room": f"room {i}", "type": "motion"} for i, s in enumerate(SENSORS, 1)
    },
    "activities": {
        "Sleep": {"coarse": "Sleep", "prompts": ["Somebody is sound asleep.", "A night's rest."]},
        "Cook": {"coarse": "Cook", "prompts": ["Somebody makes a meal."]},
        "Watch_TV": {"coarse": "Relax", "prompts": ["Watching television."]},
        "Wash_Dishes": {"coarse": "Work", "prompts": ["Washing the dishes."]},
    },
}


def made_events(name="small", days=12, year=2026):
    """12 days; episodes of 40 events, an activity's own sensor in about half of them; every fifth has no label."""
    rng, rows = np.random.default_rng(0), []
    for day in range(days):
        time = datetime(year, 1, 1 + day, 8)
        for episode in range(10):
            label = None if episode % 5 == 4 else str(rng.choice(list(PLACES)))
            for _ in range(40):
                at_its_place = label is not None and rng.random() < 0.5
                sensor = PLACES[label] if at_its_place else str(rng.choice(SENSORS))
                time += timedelta(seconds=float(rng.integers(1, 40)))
                state = "ON" if rng.random() < 0.6 else "OFF"
                rows.append((name, "all", time, sensor, state, None, label, [label] if label else []))
    return pa.table(dict(zip(EVENTS.names, zip(*rows, strict=True), strict=True)), schema=EVENTS)


def caption_of(keys, start):
    sensor = max(set(keys), key=keys.count).split("_")[0]
    return f"At {start:%H} hours somebody is mostly near {sensor}."


def make_home(root, events=None, name="small"):
    home = HomeFolder(root)
    home.describe(home=name, layout={**LAYOUT, "home": name})
    write_table(home.events, made_events() if events is None else events, EVENTS)
    cut_home(home, WindowSettings(length=12, overlap=0.5))
    windows = read_table(home.windows, WINDOWS)
    ids = windows["window_id"].to_pylist()
    captions = [caption_of(w["sensor_keys"], w["start"]) for w in windows.to_pylist()]
    rows = {"window_id": ids, "style": ["narrative"] * len(ids), "number": [0] * len(ids)}
    write_table(home.captions("narrative"), pa.table({**rows, "caption": captions}), CAPTIONS)
    vectors = embed_texts(load_text_model("minilm", device="cpu"), captions, progress=False)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    write_table(
        home.text_embeddings("narrative", "minilm"),
        pa.table({**rows, "embedding": embedding}),
        text_embeddings_schema(vectors.shape[1]),
        {"text_model": "minilm"},
    )
    return home
