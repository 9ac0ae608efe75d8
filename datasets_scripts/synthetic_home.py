"""A made-up person's raw log, so that the whole way can be walked without anybody's data and without a network.

The person lives in `layouts/synthetic.json`: sleeps, cooks, works, goes out; with the order, the hours and the lengths
of a day drawn anew each day, and another rhythm at weekends. Sensors react as the real ones do: motion sensors fire
along the path through the rooms and fall silent a little later, doors open and close, thermometers report alone.
The log holds the faults of real logs too, at a low rate: stray motion, damaged states, lines out of order.
"""

import heapq
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from tqdm import tqdm

from casita.datasets_scripts.layouts import load_layout
from casita.files import write_beside

# Neighbouring motion sensors: where one can walk from one to the next without passing a third.
PATHS = {
    "M002": ("M001", "M003", "M005", "M012"),
    "M003": ("M009", "M014", "M016"),
    "M005": ("M004", "M007"),
    "M009": ("M007", "M008"),
    "M012": ("M011",),
    "M014": ("M013",),
    "M016": ("M015",),
}
AREA_SENSOR = {"kitchen": "M006", "living_room": "M010"}  # these see the whole room
BED, TOILET, BASIN, DESK = "M011", "M013", "M014", "M015"
STOVE, COUNTER, TABLE, ARMCHAIR, FRONT_DOOR = "M004", "M005", "M007", "M008", "M001"
WALKING_CM_PER_S = 80.0  # an unhurried indoor pace
DAMAGED = {"ON": ("ON0", "ON+", "ON`"), "OFF": ("OF", "OFF5", "OFFc")}  # seen in real logs
DAY_S = 86400.0


class Life:
    """The person's whereabouts while the clock runs, and what the sensors noticed.

    `now_s` counts from midnight of the first day; `at` is the motion sensor the person stands at.
    """

    def __init__(self, layout: dict, rng: np.random.Generator):
        self.rng = rng
        self.sensors = layout["sensors"]
        self.now_s = 0.0
        self.at = BED
        self.pulses: list[tuple[str, float, float]] = []  # motion sensor, on, off
        self.changes: list[tuple[float, str, str]] = []  # time, sensor, state
        self.activities: list[tuple[str, float, float]] = []  # label, begin, end
        self.neighbours: dict[str, list[str]] = {}
        for a, b in ((a, b) for a, others in PATHS.items() for b in others):
            self.neighbours.setdefault(a, []).append(b)
            self.neighbours.setdefault(b, []).append(a)

    def minutes(self, low: float, high: float) -> float:
        """A duration in seconds between `low` and `high` minutes."""
        return 60 * self.rng.uniform(low, high)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def distance_cm(self, a: str, b: str) -> float:
        one, other = self.sensors[a], self.sensors[b]
        return math.hypot(one["x"] - other["x"], one["y"] - other["y"])

    def route(self, goal: str) -> list[str]:
        """The sensors passed on the shortest way from here to `goal`, which comes last."""
        queue: list[tuple[float, list[str]]] = [(0.0, [self.at])]
        while queue:
            length, path = heapq.heappop(queue)
            if path[-1] == goal:
                return path[1:]
            for step in self.neighbours[path[-1]]:
                if step not in path:
                    heapq.heappush(queue, (length + self.distance_cm(path[-1], step), [*path, step]))
        raise AssertionError(f"no way from {self.at} to {goal}")

    def notice(self, sensor: str, at_s: float) -> None:
        """One motion sensor sees the person; it falls silent one to some seconds later."""
        self.pulses.append((sensor, at_s, at_s + 1.1 + self.rng.exponential(1.3)))

    def walk(self, goal: str) -> None:
        for step in self.route(goal):
            pace = WALKING_CM_PER_S * self.rng.uniform(0.7, 1.2)
            self.now_s += self.distance_cm(self.at, step) / pace
            self.at = step
            self.notice(step, self.now_s + self.rng.uniform(0.0, 0.3))

    def stay(self, place: str, seconds: float, every_s: float) -> None:
        """Go to `place` and be there for `seconds`, moving about every `every_s` seconds on average."""
        self.walk(place)
        end = self.now_s + seconds
        area = AREA_SENSOR.get(self.sensors[place]["room"])
        while (step := self.rng.exponential(every_s)) < end - self.now_s:
            self.now_s += step
            seen_by = area if area and self.chance(0.35) else place
            self.notice(seen_by, self.now_s)
        self.now_s = end

    def turn(
        self, sensor: str, first: str, then: str | None = None, after_s: tuple[float, float] = (2.0, 8.0)
    ) -> None:
        """Put `sensor` into state `first` now and, when `then` is given, into that one a while later."""
        self.changes.append((self.now_s, sensor, first))
        self.now_s += self.rng.uniform(*after_s) if then else self.rng.uniform(0.3, 1.5)
        if then:
            self.changes.append((self.now_s, sensor, then))

    # The activities. Each returns with the clock at its end.

    def sleep_until(self, wake_s: float) -> None:
        trips = sorted(self.rng.uniform(self.now_s + 3600, wake_s - 1800, self.rng.poisson(0.9)))
        for trip_s in [*trips, wake_s]:
            if trip_s - self.now_s < 1800:  # two trips in half an hour are one
                continue
            begin = self.now_s
            self.walk(BED)
            self.now_s += self.rng.uniform(1.0, 4.0)
            self.turn("B001", "ON")
            self.stay(BED, trip_s - self.now_s, every_s=540)
            self.turn("B001", "OFF")
            self.activities.append(("Sleep", begin, self.now_s))
            if trip_s < wake_s:
                begin = self.now_s
                self.toilet()
                self.walk(BED)
                self.activities.append(("Bed_to_Toilet", begin, self.now_s))

    def toilet(self) -> None:
        self.stay(TOILET, self.minutes(1.5, 4), every_s=25)
        self.turn("F001", "ON", "OFF", (3.0, 6.0))
        self.stay(BASIN, self.minutes(0.3, 1), every_s=15)

    def bathing(self) -> None:
        if self.chance(0.7):
            self.toilet()
        self.stay(BASIN, self.minutes(8, 20), every_s=50)

    def cook(self, shortest_min: float, longest_min: float) -> None:
        end = self.now_s + self.minutes(shortest_min, longest_min)
        self.walk(COUNTER)
        for _ in range(self.rng.integers(1, 4)):
            self.turn("D002", "OPEN", "CLOSE", (4.0, 25.0))
            self.stay(COUNTER, self.minutes(0.5, 2), every_s=18)
        self.walk(STOVE)
        self.turn("S001", "ON")
        while self.now_s < end:
            self.stay(STOVE, self.minutes(1, 4), every_s=40)
            if self.chance(0.5):
                self.stay(COUNTER, self.minutes(0.3, 1.5), every_s=20)
            if self.chance(0.25):
                self.turn("W001", "ON", "OFF", (4.0, 15.0))
        self.walk(STOVE)
        self.turn("S001", "OFF")

    def eat(self) -> None:
        self.stay(TABLE, self.minutes(10, 25), every_s=70)

    def wash_dishes(self) -> None:
        for _ in range(self.rng.integers(3, 7)):
            self.walk(COUNTER)
            self.turn("W001", "ON", "OFF", (15.0, 60.0))
            self.stay(COUNTER, self.minutes(0.4, 1.5), every_s=15)

    def take_medicine(self) -> None:
        self.walk(COUNTER)
        self.turn("D003", "OPEN")
        self.turn("I001", "ABSENT")
        self.stay(COUNTER, self.minutes(0.4, 1.5), every_s=12)
        self.turn("W001", "ON", "OFF", (3.0, 6.0))
        self.turn("I001", "PRESENT")
        self.turn("D003", "CLOSE")

    def watch_tv(self, until_s: float) -> None:
        self.walk(ARMCHAIR)
        self.turn("I002", "ABSENT")
        while self.now_s < until_s:
            self.stay(ARMCHAIR, max(60.0, min(self.minutes(20, 45), until_s - self.now_s)), every_s=180)
            if self.now_s < until_s and self.chance(0.3):
                self.stay(COUNTER, self.minutes(0.5, 2), every_s=20)
                self.turn("D002", "OPEN", "CLOSE")
        self.walk(ARMCHAIR)
        self.turn("I002", "PRESENT")

    def work_at_desk(self, until_s: float) -> None:
        while self.now_s < until_s:
            self.stay(DESK, max(60.0, min(self.minutes(25, 50), until_s - self.now_s)), every_s=170)
            if self.chance(0.3):
                self.stay("M016", self.minutes(0.3, 1), every_s=15)

    def leave_until(self, back_s: float) -> None:
        begin = self.now_s
        self.stay(FRONT_DOOR, self.minutes(0.5, 2), every_s=8)
        self.turn("D001", "OPEN", "CLOSE")
        self.activities.append(("Leave_Home", begin, self.now_s))
        self.now_s = max(back_s, self.now_s + 600)
        begin = self.now_s
        self.turn("D001", "OPEN", "CLOSE")
        self.stay(FRONT_DOOR, self.minutes(0.5, 2), every_s=8)
        self.activities.append(("Enter_Home", begin, self.now_s))

    def wander(self) -> None:
        """Something that nobody labelled: a look into a room, a visit to the toilet."""
        if self.chance(0.3):
            self.toilet()
        for place in self.rng.choice(sorted(self.neighbours), self.rng.integers(0, 3)):
            self.stay(str(place), self.minutes(0.3, 2.5), every_s=20)

    def do(self, label: str, *arguments: float) -> None:
        """One labelled activity, then perhaps an unlabelled errand about the home."""
        begin = self.now_s
        getattr(self, label.lower())(*arguments)
        self.activities.append((label, begin, self.now_s))
        if self.chance(0.6):
            self.wander()

    def meal(self, shortest_min: float, longest_min: float) -> None:
        self.do("Cook", shortest_min, longest_min)
        self.do("Eat")
        if self.chance(0.7):
            self.do("Wash_Dishes")

    def spend(self, until_s: float, weekend: bool) -> None:
        """Fill the time to `until_s` with work, leisure or a way out; at weekends with less work."""
        likely = {"Work_at_Desk": 0.1 if weekend else 0.5, "Watch_TV": 0.5 if weekend else 0.2}
        while until_s - self.now_s > 900:
            end = min(until_s, self.now_s + self.minutes(40, 130))
            drawn = self.rng.random()
            if drawn < likely["Work_at_Desk"]:
                self.do("Work_at_Desk", end)
            elif drawn < sum(likely.values()):
                self.do("Watch_TV", end)
            else:
                self.leave_until(end)

    def day(self, midnight_s: float, weekend: bool) -> None:
        """From getting up to falling asleep again; the night before ends here."""

        def clock(hour: float, spread_min: float) -> float:
            return midnight_s + 3600 * hour + 60 * spread_min * float(np.clip(self.rng.normal(), -2, 2))

        self.sleep_until(clock(8.1 if weekend else 6.8, 25))
        morning = ["Bathing", "Take_Medicine"] if self.chance(0.9) else ["Bathing"]
        for label in self.rng.permutation(morning):
            self.do(str(label))
        self.meal(6, 15)
        self.spend(clock(12.3, 25), weekend)
        self.meal(12, 25)
        self.spend(clock(17.8, 30), weekend)
        self.meal(20, 45)
        if self.chance(0.85):
            self.do("Take_Medicine")
        self.do("Watch_TV", clock(22.6 if weekend else 22.0, 25))
        self.stay(BASIN, self.minutes(2, 5), every_s=20)


def _merge(pulses: Sequence[tuple[str, float, float]]) -> list[tuple[float, str, str]]:
    """ON and OFF of each motion sensor; a sensor that is triggered again while on stays on."""
    events, last = [], dict[str, tuple[float, float]]()
    for sensor, on, off in sorted(pulses, key=lambda pulse: pulse[1]):
        began, ended = last.get(sensor, (on, off))
        if sensor in last and on > ended + 0.2:
            events += [(began, sensor, "ON"), (ended, sensor, "OFF")]
            began, ended = on, off
        last[sensor] = (began, max(ended, off))
    for sensor, (began, ended) in last.items():
        events += [(began, sensor, "ON"), (ended, sensor, "OFF")]
    return events


def _temperatures(life: Life, days: int) -> list[tuple[float, str, str]]:
    """A reading of each thermometer about every half hour; the kitchen warms up while the stove is on."""
    cooking = np.array([(begin, end) for label, begin, end in life.activities if label == "Cook"])
    events = []
    for sensor, base in (("T001", 21.0), ("T002", 18.5)):
        times = np.cumsum(life.rng.uniform(1500, 2100, int(days * DAY_S / 1500)))
        times = times[times < days * DAY_S]
        warm = base + 1.5 * np.sin(2 * np.pi * (times / DAY_S - 0.4)) + life.rng.normal(0, 0.3, len(times))
        if sensor == "T001":
            since = times[:, None] - cooking[None, :, 0]
            warm += 4.0 * ((since > 300) & (times[:, None] < cooking[None, :, 1] + 1800)).any(axis=1)
        events += [(float(time), sensor, f"{value:.1f}") for time, value in zip(times, warm, strict=True)]
    return events


def _stray_motion(life: Life, days: int, a_day: int = 8) -> list[tuple[str, float, float]]:
    """Motion that nobody made: sun on a wall, a curtain."""
    sensors = [sensor for sensor, told in life.sensors.items() if told["type"].startswith("motion")]
    times = life.rng.uniform(0, days * DAY_S, a_day * days)
    return [(str(life.rng.choice(sensors)), float(time), float(time) + 1.5) for time in times]


def _marks(times: np.ndarray, activities: Sequence[tuple[str, float, float]]) -> dict[int, str]:
    """Line number to `"LABEL begin"` or `"LABEL end"`; a line carries one mark at most."""
    marks: dict[int, str] = {}
    for label, begin_s, end_s in activities:
        begin = int(np.searchsorted(times, begin_s))
        end = int(np.searchsorted(times, end_s, side="right")) - 1
        while begin in marks:
            begin += 1
        if begin < end:
            marks[begin], marks[end] = f"{label} begin", f"{label} end"
    return marks


def _damage(states: list[str], marks: dict[int, str], share: float, rng: np.random.Generator) -> np.ndarray:
    """Spoil a `share` of the ON and OFF states in place; give the lines' order, a `share` of them late."""
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
    seed: int = 0,
    start: datetime = datetime(2024, 1, 1),
    damaged_share: float = 0.0005,
    progress: bool = True,
) -> Path:
    """Write `days` days of the made-up life as a CASAS text log and give its path.

    Tab-separated `YYYY-MM-DD HH:MM:SS.ffffff`, sensor, state and, where an activity begins or ends, `LABEL begin|end`;
    about 1,600 lines a day. The same arguments always give the same bytes. `damaged_share` of the lines
    have a damaged state and as many come late (0 for a log without faults). `ValueError` when `days` is below 1.
    """
    if days < 1:
        raise ValueError(f"days={days}: a log needs at least one day.")
    life = Life(load_layout("synthetic"), np.random.default_rng(seed))
    for day in tqdm(range(days), desc="living", unit="day", disable=not progress):
        life.day(day * DAY_S, weekend=(start + timedelta(days=day)).weekday() >= 5)
    events = _merge([*life.pulses, *_stray_motion(life, days)]) + life.changes + _temperatures(life, days)
    events = sorted(event for event in events if event[0] >= 0)
    times = np.array([time for time, _, _ in events])
    marks = _marks(times, life.activities)
    states = [state for _, _, state in events]
    order = _damage(states, marks, damaged_share, life.rng)
    stamps = np.datetime64(start, "us") + (times * 1e6).astype("timedelta64[us]")
    texts = np.char.replace(np.datetime_as_string(stamps, unit="us"), "T", " ")
    with write_beside(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
        for i in order:
            mark = f"\t{marks[i]}" if i in marks else ""
            file.write(f"{texts[i]}\t{events[i][1]}\t{states[i]}{mark}\n")
    return Path(path)
