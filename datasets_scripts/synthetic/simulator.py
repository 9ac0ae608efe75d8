"""A simulated person in a dwelling: their activities and walks while the clock runs, and the sensors that notice."""

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from casita.datasets_scripts.layouts.layout import Layout, load_layout

DAY_S = 86400.0


@dataclass(frozen=True, kw_only=True)
class Dwelling:
    """A layout with the paths, places and things of a home; every name but the layout's is a sensor's id.

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
    """Return the shipped synthetic home, `layouts/synthetic.json`."""
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


class ResidentSimulator:
    """A person's whereabouts while the clock runs, and what the sensors noticed.

    `now_s` counts from midnight of the first day; `at` is the motion sensor the person stands at. An activity is the
    method with its label's name in lower case; it returns with the clock at its end. Every draw comes from one random
    generator, so the order of the draws is part of the log.
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
        for sensor, others in dwelling.paths.items():
            for other in others:
                self.neighbours.setdefault(sensor, []).append(other)
                self.neighbours.setdefault(other, []).append(sensor)
        self._routes: dict[tuple[str, str], list[str]] = {}

    def minutes(self, low: float, high: float) -> float:
        """Draw a duration in seconds between `low` and `high` minutes."""
        return 60 * self.rng.uniform(low, high)

    def chance(self, probability: float) -> bool:
        """Draw whether something of this probability happens."""
        return bool(self.rng.random() < probability)

    def distance_cm(self, a: str, b: str) -> float:
        """Return the distance of two sensors."""
        dx = self.sensors[a]["x"] - self.sensors[b]["x"]
        dy = self.sensors[a]["y"] - self.sensors[b]["y"]
        return math.hypot(dx, dy)

    def route(self, goal: str) -> list[str]:
        """Return the sensors passed on the shortest route from here to `goal`, which comes last."""
        if (self.at, goal) in self._routes:
            return self._routes[self.at, goal]
        queue: list[tuple[float, list[str]]] = [(0.0, [self.at])]
        while queue:
            length, path = heapq.heappop(queue)
            if path[-1] == goal:
                self._routes[self.at, goal] = path[1:]
                return path[1:]
            for step in self.neighbours[path[-1]]:
                if step not in path:
                    heapq.heappush(queue, (length + self.distance_cm(path[-1], step), [*path, step]))
        raise AssertionError(f"no route from {self.at} to {goal}")

    def trigger(self, sensor: str, at_s: float) -> None:
        """Let one motion sensor see the person; it falls silent one to some seconds later."""
        self.pulses.append((sensor, at_s, at_s + 1.1 + self.rng.exponential(1.3)))

    def walk(self, place: str) -> None:
        """Go to one of the dwelling's places, or to a motion sensor."""
        for step in self.route(self.dwelling.places.get(place, place)):
            pace = self.person.walking_cm_per_s * self.rng.uniform(0.7, 1.2)
            self.now_s += self.distance_cm(self.at, step) / pace
            self.at = step
            self.trigger(step, self.now_s + self.rng.uniform(0.0, 0.3))

    def stay(self, place: str, seconds: float, every_s: float) -> None:
        """Go to `place` and be there for `seconds`, moving about every `every_s` seconds on average."""
        self.walk(place)
        end = self.now_s + seconds
        area = self.dwelling.area.get(self.sensors[self.at]["room"])
        while (step := self.rng.exponential(every_s / self.person.restless)) < end - self.now_s:
            self.now_s += step
            seen_by = area if area and self.chance(0.35) else self.at
            self.trigger(seen_by, self.now_s)
        self.now_s = end

    def set_state(
        self, thing: str, first: str, then: str | None = None, after_s: tuple[float, float] = (2.0, 8.0)
    ) -> None:
        """Put `thing` into state `first` now and, when `then` is given, into that one a while later."""
        sensor = self.dwelling.things.get(thing)
        begin = self.now_s
        self.now_s += self.rng.uniform(*after_s) if then else self.rng.uniform(0.3, 1.5)
        if sensor is not None:
            self.changes.append((begin, sensor, first))
            if then:
                self.changes.append((self.now_s, sensor, then))

    def sleep_until(self, wake_s: float) -> None:
        """Sleep, with a few trips to the toilet, until `wake_s`."""
        trips = self.rng.uniform(self.now_s + 3600, wake_s - 1800, self.rng.poisson(self.person.nightly_trips))
        for trip_s in [*sorted(trips), wake_s]:
            if trip_s - self.now_s < 1800:  # two trips in half an hour are one
                continue
            begin = self.now_s
            self.walk("bed")
            self.now_s += self.rng.uniform(1.0, 4.0)
            self.set_state("bed_mat", "ON")
            self.stay("bed", trip_s - self.now_s, every_s=540)
            self.set_state("bed_mat", "OFF")
            self.activities.append(("Sleep", begin, self.now_s))
            if trip_s < wake_s:
                begin = self.now_s
                self.toilet()
                self.walk("bed")
                self.activities.append(("Bed_to_Toilet", begin, self.now_s))

    def toilet(self) -> None:
        """Use the toilet and wash hands; part of other activities, without a label of its own."""
        self.stay("toilet", self.minutes(1.5, 4), every_s=25)
        self.set_state("toilet_flush", "ON", "OFF", (3.0, 6.0))
        self.stay("basin", self.minutes(0.3, 1), every_s=15)

    def bathing(self) -> None:
        """Wash, after the toilet perhaps."""
        if self.chance(0.7):
            self.toilet()
        self.stay("basin", self.minutes(8, 20), every_s=50)

    def cook(self, shortest_min: float, longest_min: float) -> None:
        """Cook at the counter and the stove for so many minutes."""
        end = self.now_s + self.minutes(shortest_min, longest_min)
        self.walk("counter")
        for _ in range(self.rng.integers(1, 4)):
            self.set_state("fridge", "OPEN", "CLOSE", (4.0, 25.0))
            self.stay("counter", self.minutes(0.5, 2), every_s=18)
        self.walk("stove")
        self.set_state("stove_switch", "ON")
        while self.now_s < end:
            self.stay("stove", self.minutes(1, 4), every_s=40)
            if self.chance(0.5):
                self.stay("counter", self.minutes(0.3, 1.5), every_s=20)
            if self.chance(0.25):
                self.set_state("tap", "ON", "OFF", (4.0, 15.0))
        self.walk("stove")
        self.set_state("stove_switch", "OFF")

    def eat(self) -> None:
        """Eat at the table."""
        self.stay("table", self.minutes(10, 25), every_s=70)

    def wash_dishes(self) -> None:
        """Wash the dishes at the counter."""
        for _ in range(self.rng.integers(3, 7)):
            self.walk("counter")
            self.set_state("tap", "ON", "OFF", (15.0, 60.0))
            self.stay("counter", self.minutes(0.4, 1.5), every_s=15)

    def take_medicine(self) -> None:
        """Take a pill from the cabinet."""
        self.walk("counter")
        self.set_state("medicine_cabinet", "OPEN")
        self.set_state("pill_box", "ABSENT")
        self.stay("counter", self.minutes(0.4, 1.5), every_s=12)
        self.set_state("tap", "ON", "OFF", (3.0, 6.0))
        self.set_state("pill_box", "PRESENT")
        self.set_state("medicine_cabinet", "CLOSE")

    def watch_tv(self, until_s: float) -> None:
        """Sit in the armchair until `until_s`, with a snack now and then."""
        self.walk("armchair")
        self.set_state("tv_remote", "ABSENT")
        while self.now_s < until_s:
            self.stay("armchair", max(60.0, min(self.minutes(20, 45), until_s - self.now_s)), every_s=180)
            if self.now_s < until_s and self.chance(0.3):
                self.stay("counter", self.minutes(0.5, 2), every_s=20)
                self.set_state("fridge", "OPEN", "CLOSE")
        self.walk("armchair")
        self.set_state("tv_remote", "PRESENT")

    def work_at_desk(self, until_s: float) -> None:
        """Sit at the desk until `until_s`, with a step to the door now and then."""
        while self.now_s < until_s:
            self.stay("desk", max(60.0, min(self.minutes(25, 50), until_s - self.now_s)), every_s=170)
            if self.chance(0.3):
                self.stay("office_door", self.minutes(0.3, 1), every_s=15)

    def leave_until(self, back_s: float) -> None:
        """Leave the home and come back at `back_s`, after ten minutes at least."""
        begin = self.now_s
        self.stay("front_door", self.minutes(0.5, 2), every_s=8)
        self.set_state("front_door", "OPEN", "CLOSE")
        self.activities.append(("Leave_Home", begin, self.now_s))
        self.now_s = max(back_s, self.now_s + 600)
        begin = self.now_s
        self.set_state("front_door", "OPEN", "CLOSE")
        self.stay("front_door", self.minutes(0.5, 2), every_s=8)
        self.activities.append(("Enter_Home", begin, self.now_s))

    def run_errand(self) -> None:
        """Do something that nobody labels: look into a room, visit the toilet."""
        if self.chance(0.3):
            self.toilet()
        for place in self.rng.choice(sorted(self.neighbours), self.rng.integers(0, 3)):
            self.stay(str(place), self.minutes(0.3, 2.5), every_s=20)

    def perform(self, label: str, *arguments: float) -> None:
        """Perform one labelled activity, then perhaps an unlabelled errand about the home."""
        begin = self.now_s
        getattr(self, label.lower())(*arguments)
        self.activities.append((label, begin, self.now_s))
        if self.chance(self.person.errands):
            self.run_errand()

    def meal(self, shortest_min: float, longest_min: float) -> None:
        """Cook for so many minutes, eat, and perhaps wash the dishes."""
        self.perform("Cook", shortest_min * self.person.meal_length, longest_min * self.person.meal_length)
        self.perform("Eat")
        if self.chance(self.person.dishes):
            self.perform("Wash_Dishes")

    def fill_time(self, until_s: float, weekend: bool) -> None:
        """Fill the time to `until_s` with work, leisure or a trip out; at weekends with other shares."""
        desk = self.person.desk_share[weekend]
        tv = self.person.tv_share[weekend]
        while until_s - self.now_s > 900:
            end = min(until_s, self.now_s + self.minutes(40, 130))
            drawn = self.rng.random()
            if drawn < desk:
                self.perform("Work_at_Desk", end)
            elif drawn < desk + tv:
                self.perform("Watch_TV", end)
            else:
                self.leave_until(end)

    def live_day(self, midnight_s: float, weekend: bool) -> None:
        """Simulate a day from getting up to the last hour before sleep; the night before ends here."""
        person = self.person

        def clock(hour: float, spread_min: float) -> float:
            drawn = float(np.clip(self.rng.normal(), -2, 2))
            return midnight_s + 3600 * hour + 60 * spread_min * person.punctual * drawn

        self.sleep_until(clock(person.wake_h[weekend], 25))
        morning = ["Bathing", "Take_Medicine"] if self.chance(person.morning_pills) else ["Bathing"]
        for label in self.rng.permutation(morning):
            self.perform(str(label))
        self.meal(6, 15)
        self.fill_time(clock(person.lunch_h, 25), weekend)
        self.meal(12, 25)
        self.fill_time(clock(person.dinner_h, 30), weekend)
        self.meal(20, 45)
        if self.chance(person.evening_pills):
            self.perform("Take_Medicine")
        self.perform("Watch_TV", clock(person.bed_h[weekend], 25))
        self.stay("basin", self.minutes(2, 5), every_s=20)
