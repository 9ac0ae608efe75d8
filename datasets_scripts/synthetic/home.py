"""The raw log of a simulated person, so that everything can be tried without anybody's data and without a network.

The person lives in `layouts/synthetic.json`, or in a home of `synthetic/layouts.py`: sleeps, cooks, works, goes out;
with the order, the hours and the lengths of a day drawn anew each day, and another rhythm at weekends. Sensors react
as the real ones do: motion sensors fire along the path through the rooms and fall silent a little later, doors open
and close, thermometers report alone. The log holds the faults of real logs too, at a low rate: stray motion, damaged
states, lines out of order.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from tqdm import tqdm

from casita.datasets_scripts.schema import HomeFolder
from casita.datasets_scripts.synthetic.layouts import draw_dwelling, draw_person
from casita.datasets_scripts.synthetic.simulator import DAY_S, Dwelling, Person, ResidentSimulator, synthetic_dwelling
from casita.files import hash_json, write_beside, write_json

SIMULATOR_VERSION = 1  # raise it when the simulator changes, so that logs are written again
DAMAGED = {"ON": ("ON0", "ON+", "ON`"), "OFF": ("OF", "OFF5", "OFFc")}  # seen in real logs


def merge_pulses(pulses: Sequence[tuple[str, float, float]]) -> list[tuple[float, str, str]]:
    """Return ON and OFF of each motion sensor; a sensor that is triggered again while on stays on."""
    events = []
    last: dict[str, tuple[float, float]] = {}
    for sensor, on, off in sorted(pulses, key=lambda pulse: pulse[1]):
        began, ended = last.get(sensor, (on, off))
        if sensor in last and on > ended + 0.2:
            events += [(began, sensor, "ON"), (ended, sensor, "OFF")]
            began = on
            ended = off
        last[sensor] = (began, max(ended, off))
    for sensor, (began, ended) in last.items():
        events += [(began, sensor, "ON"), (ended, sensor, "OFF")]
    return events


def _temperatures(resident: ResidentSimulator, days: int) -> list[tuple[float, str, str]]:
    """Draw a reading of each thermometer about every half hour; the kitchen warms up while the stove is on."""
    cooking = np.array([(begin, end) for label, begin, end in resident.activities if label == "Cook"])  # in order
    events = []
    for sensor, base, by_the_stove in resident.dwelling.thermometers:
        times = np.cumsum(resident.rng.uniform(1500, 2100, int(days * DAY_S / 1500)))
        times = times[times < days * DAY_S]
        warm = base + 1.5 * np.sin(2 * np.pi * (times / DAY_S - 0.4)) + resident.rng.normal(0, 0.3, len(times))
        if by_the_stove:
            latest = np.searchsorted(cooking[:, 0] + 300, times) - 1  # the meal that was begun last, -1 for none
            warm += 4.0 * ((latest >= 0) & (times < cooking[latest, 1] + 1800))
        events += [(float(time), sensor, f"{value:.1f}") for time, value in zip(times, warm, strict=True)]
    return events


def _stray_motion(resident: ResidentSimulator, days: int) -> list[tuple[str, float, float]]:
    """Draw motion that nobody made: sun on a wall, a curtain."""
    sensors = [name for name, sensor in resident.sensors.items() if sensor["type"].startswith("motion")]
    times = resident.rng.uniform(0, days * DAY_S, 8 * days)  # eight a day
    return [(str(resident.rng.choice(sensors)), float(time), float(time) + 1.5) for time in times]


def _marks(times: np.ndarray, activities: Sequence[tuple[str, float, float]]) -> dict[int, str]:
    """Map line numbers to `"LABEL begin"` or `"LABEL end"`; a line carries one mark at most."""
    marks: dict[int, str] = {}
    for label, begin_s, end_s in activities:
        begin = int(np.searchsorted(times, begin_s))
        end = int(np.searchsorted(times, end_s, side="right")) - 1
        while begin in marks:
            begin += 1
        if begin < end:
            marks[begin] = f"{label} begin"
            marks[end] = f"{label} end"
    return marks


def _damage(states: list[str], marks: dict[int, str], share: float, rng: np.random.Generator) -> np.ndarray:
    """Spoil a `share` of the ON and OFF states in place; return the lines' order, a `share` of them late."""
    for i in np.flatnonzero(rng.random(len(states)) < share):
        states[i] = str(rng.choice(DAMAGED[states[i]])) if states[i] in DAMAGED else states[i]
    place = np.arange(len(states), dtype=np.float64)
    late = np.flatnonzero(rng.random(len(states)) < share)
    late = late[[i not in marks for i in late]]  # a late mark would move the activity itself
    place[late] += rng.integers(1, 4, len(late)) + 0.5
    return np.argsort(place, kind="stable")


def write_synthetic_log(
    path: Path | str,
    *,
    days: int = 60,
    seed: int | Sequence[int] = 0,
    dwelling: Dwelling | None = None,
    person: Person | None = None,
    start: datetime = datetime(2024, 1, 1),
    damaged_share: float = 0.0005,
    progress: bool = True,
) -> Path:
    """Write `days` days of a simulated person as a CASAS text log and return its path.

    Tab-separated `YYYY-MM-DD HH:MM:SS.ffffff`, sensor, state and, where an activity begins or ends, `LABEL begin|end`;
    about 1,600 lines a day, half a second of one core for 100,000. The same arguments always give the same bytes.

    Args:
        dwelling: the home that is lived in; by default the shipped one.
        person: who lives there.
        damaged_share: so many of the lines have a damaged state, and as many come late; 0 for a log without faults.

    Raises:
        ValueError: `days` is below 1.
    """
    if days < 1:
        raise ValueError(f"days={days}: a log needs at least one day.")
    resident = ResidentSimulator(dwelling or synthetic_dwelling(), np.random.default_rng(seed), person)
    for day in tqdm(range(days), desc="living", unit="day", disable=not progress):
        resident.live_day(day * DAY_S, weekend=(start + timedelta(days=day)).weekday() >= 5)
    events = (
        merge_pulses([*resident.pulses, *_stray_motion(resident, days)])
        + resident.changes
        + _temperatures(resident, days)
    )
    events = sorted(event for event in events if event[0] >= 0)
    times = np.array([time for time, _, _ in events])
    marks = _marks(times, resident.activities)
    states = [state for _, _, state in events]
    order = _damage(states, marks, damaged_share, resident.rng)
    stamps = np.datetime64(start, "us") + (times * 1e6).astype("timedelta64[us]")
    texts = np.char.replace(np.datetime_as_string(stamps, unit="us"), "T", " ")
    with write_beside(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
        for i in order:
            mark = f"\t{marks[i]}" if i in marks else ""
            file.write(f"{texts[i]}\t{events[i][1]}\t{states[i]}{mark}\n")
    return Path(path)


def write_synthetic_home(folder: HomeFolder, number: int, days: int, seed: int, progress: bool = True) -> None:
    """Write `layout.json` and the log `synthetic.txt` of a synthetic home, unless they are there already."""
    dwelling = draw_dwelling(seed, number)
    person = draw_person(seed, number)
    settings = {
        "version": SIMULATOR_VERSION,
        "days": days,
        "seed": seed,
        "home": hash_json([repr(dwelling), repr(person)]),
    }
    layout = folder.root / "layout.json"
    log = folder.root / "synthetic.txt"
    if folder.is_current("synthetic", settings, []):
        return
    write_json(layout, dwelling.layout)
    write_synthetic_log(log, days=days, seed=[seed, number, 2], dwelling=dwelling, person=person, progress=progress)
    description = {"home": dwelling.layout["home"], "layout": dwelling.layout}
    folder.record("synthetic", settings, [], [layout, log], describe=description)
