"""A made-up person who lives in a dwelling: where they are while the clock runs, and what the sensors notice of it."""

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from casita.datasets_scripts.layouts.layout import Layout, load_layout

DAY_S = 86400.0


@dataclass(frozen=True, kw_only=True)
class Dwelling:
    """A layout, and what one must know of it to live there; every name but the layout's is a sensor's id.

    `places` has a motion sensor for each of bed, toilet, basin, desk, office_door, stove, counter, table, armchair,
    front_door. `things` may have bed_mat, toilet_flush, fridge, stove_switch, tap, medicine_cabinet, pill_box,
    tv_remote, front_door; what a home does not have is used without leaving a trace.
    """

    layout: Layout
    paths: Mapping[str, tuple[str, ...]]  # motion sensor -> where one can walk to from there without passing a third
    places: Mapping[str, str]
    things: Mapping[str, str]
    area: Mapping[str, str] = field(default_factory=dict)  # room -> the sensor that sees the whole of it
    thermometers: tuple[tuple[str, float, bool], ...] = ()  # sensor, mean in degrees Celsius, whether by the stove


@dataclass(frozen=True, kw_only=True)
class Person:
    """Habits: hours of the clock (over 24: of the next day), probabilities, and factors on durations and rates."""

    wake_h: tuple[float, float] = (6.8, 8.1)  # on a weekday, at a weekend
    lunch_h: float = 12.3
    dinner_h: float = 17.8
    bed_h: tuple[float, float] = (22.0, 22.6)
    punctual: float = 1.0  # 1: within about 25 minutes of these hours; 2: within 50
    desk_share: tuple[float, float] = (0.5, 0.1)  # of the free time
    tv_share: tuple[float, float] = (0.2, 0.5)  # the rest is spent away
    nightly_trips: float = 0.9
    morning_pills: float = 0.9
    evening_pills: float = 0.85
    dishes: float = 0.7  # how often they are washed right after the meal
    errands: float = 0.6  # how often a look about the home follows an activity
    meal_length: float = 1.0
    restless: float = 1.0  # how often they move where they stay
    walking_cm_per_s: float = 80.0  # an unhurried indoor pace


def synthetic_dwelling() -> Dwelling:
    """The shipped made-up home, `layouts/synthetic.json`."""
    return Dwelling(
        layout=load_layout("synthetic"),
        paths={
            "M002": ("M001", "M003", "M005", "M012"),
            "M003": ("M009", "M014", "M016"),
            "M005": ("M004", "M007"),
            "M009": ("M007", "M008"),
            "M012": ("M011",),
            "M014": ("M013",),
            "M016": ("M015",),
        },
        places={
            "bed": "M011",
            "toilet": "M013",
            "basin": "M014",
            "desk": "M015",
            "office_door": "M016",
            "stove": "M004",
            "counter": "M005",
            "table": "M007",
            "armchair": "M008",
            "front_door": "M001",
        },
        things={
            "bed_mat": "B001",
            "toilet_flush": "F001",
            "fridge": "D002",
            "stove_switch": "S001",
            "tap": "W001",
            "medicine_cabinet": "D003",
            "pill_box": "I001",
            "tv_remote": "I002",
            "front_door": "D001",
        },
        area={"kitchen": "M006", "living_room": "M010"},
        thermometers=(("T001", 21.0, True), ("T002", 18.5, False)),
    )


class Life:
    """The person's whereabouts while the clock runs, and what the sensors noticed.

    `now_s` counts from midnight of the first day; `at` is the motion sensor the person stands at. An activity is the
    method with its label's name in lower case; it returns with the clock at its end.
    """

    def __init__(self, dwelling: Dwelling, rng: np.random.Generator, person: Person | None = None):
        self.rng = rng
        self.dwelling = dwelling
        self.person = person or Person()
        self.sensors = dwelling.layout["sensors"]
        self.now_s = 0.0
        self.at = dwelling.places["bed"]
        self.pulses: list[tuple[str, float, float]] = []  # motion sensor, on, off
        self.changes: list[tuple[float, str, str]] = []  # time, sensor, state
        self.activities: list[tuple[str, float, float]] = []  # label, begin, end
        self.neighbours: dict[str, list[str]] = {}
        for a, b in ((a, b) for a, others in dwelling.paths.items() for b in others):
            self.neighbours.setdefault(a, []).append(b)
            self.neighbours.setdefault(b, []).append(a)
        self._routes: dict[tuple[str, str], list[str]] = {}

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
        if (self.at, goal) not in self._routes:
            self._routes[self.at, goal] = self._shortest(goal)
        return self._routes[self.at, goal]

    def _shortest(self, goal: str) -> list[str]:
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

    def walk(self, place: str) -> None:
        """Go to one of the dwelling's places, or to a motion sensor."""
        for step in self.route(self.dwelling.places.get(place, place)):
            pace = self.person.walking_cm_per_s * self.rng.uniform(0.7, 1.2)
            self.now_s += self.distance_cm(self.at, step) / pace
            self.at = step
            self.notice(step, self.now_s + self.rng.uniform(0.0, 0.3))

    def stay(self, place: str, seconds: float, every_s: float) -> None:
        """Go to `place` and be there for `seconds`, moving about every `every_s` seconds on average."""
        self.walk(place)
        end = self.now_s + seconds
        area = self.dwelling.area.get(self.sensors[self.at]["room"])
        while (step := self.rng.exponential(every_s / self.person.restless)) < end - self.now_s:
            self.now_s += step
            seen_by = area if area and self.chance(0.35) else self.at
            self.notice(seen_by, self.now_s)
        self.now_s = end

    def turn(self, thing: str, first: str, then: str | None = None, after_s: tuple[float, float] = (2.0, 8.0)) -> None:
        """Put `thing` into state `first` now and, when `then` is given, into that one a while later."""
        sensor = self.dwelling.things.get(thing)
        began = self.now_s
        self.now_s += self.rng.uniform(*after_s) if then else self.rng.uniform(0.3, 1.5)
        if sensor is not None:
            self.changes.append((began, sensor, first))
            if then:
                self.changes.append((self.now_s, sensor, then))

    def sleep_until(self, wake_s: float) -> None:
        trips = self.rng.uniform(self.now_s + 3600, wake_s - 1800, self.rng.poisson(self.person.nightly_trips))
        for trip_s in [*sorted(trips), wake_s]:
            if trip_s - self.now_s < 1800:  # two trips in half an hour are one
                continue
            begin = self.now_s
            self.walk("bed")
            self.now_s += self.rng.uniform(1.0, 4.0)
            self.turn("bed_mat", "ON")
            self.stay("bed", trip_s - self.now_s, every_s=540)
            self.turn("bed_mat", "OFF")
            self.activities.append(("Sleep", begin, self.now_s))
            if trip_s < wake_s:
                begin = self.now_s
                self.toilet()
                self.walk("bed")
                self.activities.append(("Bed_to_Toilet", begin, self.now_s))

    def toilet(self) -> None:
        self.stay("toilet", self.minutes(1.5, 4), every_s=25)
        self.turn("toilet_flush", "ON", "OFF", (3.0, 6.0))
        self.stay("basin", self.minutes(0.3, 1), every_s=15)

    def bathing(self) -> None:
        if self.chance(0.7):
            self.toilet()
        self.stay("basin", self.minutes(8, 20), every_s=50)

    def cook(self, shortest_min: float, longest_min: float) -> None:
        end = self.now_s + self.minutes(shortest_min, longest_min)
        self.walk("counter")
        for _ in range(self.rng.integers(1, 4)):
            self.turn("fridge", "OPEN", "CLOSE", (4.0, 25.0))
            self.stay("counter", self.minutes(0.5, 2), every_s=18)
        self.walk("stove")
        self.turn("stove_switch", "ON")
        while self.now_s < end:
            self.stay("stove", self.minutes(1, 4), every_s=40)
            if self.chance(0.5):
                self.stay("counter", self.minutes(0.3, 1.5), every_s=20)
            if self.chance(0.25):
                self.turn("tap", "ON", "OFF", (4.0, 15.0))
        self.walk("stove")
        self.turn("stove_switch", "OFF")

    def eat(self) -> None:
        self.stay("table", self.minutes(10, 25), every_s=70)

    def wash_dishes(self) -> None:
        for _ in range(self.rng.integers(3, 7)):
            self.walk("counter")
            self.turn("tap", "ON", "OFF", (15.0, 60.0))
            self.stay("counter", self.minutes(0.4, 1.5), every_s=15)

    def take_medicine(self) -> None:
        self.walk("counter")
        self.turn("medicine_cabinet", "OPEN")
        self.turn("pill_box", "ABSENT")
        self.stay("counter", self.minutes(0.4, 1.5), every_s=12)
        self.turn("tap", "ON", "OFF", (3.0, 6.0))
        self.turn("pill_box", "PRESENT")
        self.turn("medicine_cabinet", "CLOSE")

    def watch_tv(self, until_s: float) -> None:
        self.walk("armchair")
        self.turn("tv_remote", "ABSENT")
        while self.now_s < until_s:
            self.stay("armchair", max(60.0, min(self.minutes(20, 45), until_s - self.now_s)), every_s=180)
            if self.now_s < until_s and self.chance(0.3):
                self.stay("counter", self.minutes(0.5, 2), every_s=20)
                self.turn("fridge", "OPEN", "CLOSE")
        self.walk("armchair")
        self.turn("tv_remote", "PRESENT")

    def work_at_desk(self, until_s: float) -> None:
        while self.now_s < until_s:
            self.stay("desk", max(60.0, min(self.minutes(25, 50), until_s - self.now_s)), every_s=170)
            if self.chance(0.3):
                self.stay("office_door", self.minutes(0.3, 1), every_s=15)

    def leave_until(self, back_s: float) -> None:
        begin = self.now_s
        self.stay("front_door", self.minutes(0.5, 2), every_s=8)
        self.turn("front_door", "OPEN", "CLOSE")
        self.activities.append(("Leave_Home", begin, self.now_s))
        self.now_s = max(back_s, self.now_s + 600)
        begin = self.now_s
        self.turn("front_door", "OPEN", "CLOSE")
        self.stay("front_door", self.minutes(0.5, 2), every_s=8)
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
        if self.chance(self.person.errands):
            self.wander()

    def meal(self, shortest_min: float, longest_min: float) -> None:
        self.do("Cook", shortest_min * self.person.meal_length, longest_min * self.person.meal_length)
        self.do("Eat")
        if self.chance(self.person.dishes):
            self.do("Wash_Dishes")

    def spend(self, until_s: float, weekend: bool) -> None:
        """Fill the time to `until_s` with work, leisure or a way out; at weekends with other shares."""
        desk, tv = self.person.desk_share[weekend], self.person.tv_share[weekend]
        while until_s - self.now_s > 900:
            end = min(until_s, self.now_s + self.minutes(40, 130))
            drawn = self.rng.random()
            if drawn < desk:
                self.do("Work_at_Desk", end)
            elif drawn < desk + tv:
                self.do("Watch_TV", end)
            else:
                self.leave_until(end)

    def day(self, midnight_s: float, weekend: bool) -> None:
        """From getting up to falling asleep again; the night before ends here."""
        person = self.person

        def clock(hour: float, spread_min: float) -> float:
            drawn = float(np.clip(self.rng.normal(), -2, 2))
            return midnight_s + 3600 * hour + 60 * spread_min * person.punctual * drawn

        self.sleep_until(clock(person.wake_h[weekend], 25))
        morning = ["Bathing", "Take_Medicine"] if self.chance(person.morning_pills) else ["Bathing"]
        for label in self.rng.permutation(morning):
            self.do(str(label))
        self.meal(6, 15)
        self.spend(clock(person.lunch_h, 25), weekend)
        self.meal(12, 25)
        self.spend(clock(person.dinner_h, 30), weekend)
        self.meal(20, 45)
        if self.chance(person.evening_pills):
            self.do("Take_Medicine")
        self.do("Watch_TV", clock(person.bed_h[weekend], 25))
        self.stay("basin", self.minutes(2, 5), every_s=20)
