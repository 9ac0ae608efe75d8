"""Synthetic homes in any number: each with a floor plan, sensors, ids and a person of its own.

A plan is a corridor with a row of rooms on either side, mirrored and turned. Drawn are which rooms there are, their
order and size, where the bed, the stove and the sensors stand, and which of the sensors a home has at all. What stays
makes transfer between homes a fair question: the activities, their labels, and how a person goes about them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from casita.datasets_scripts.layouts.layout import Layout, Sensor, check_layout, load_layout
from casita.datasets_scripts.synthetic.simulator import Dwelling, Person

Point = tuple[float, float]

# room -> narrowest and widest in cm, how often a home has it, the place at its door, the places farther in
ROOMS: dict[str, tuple[float, float, float, str | None, tuple[str, ...]]] = {
    "bedroom": (300, 450, 1.0, None, ("bed",)),
    "bathroom": (200, 300, 1.0, "basin", ("toilet",)),
    "kitchen": (250, 400, 1.0, "counter", ("stove",)),
    "living_room": (380, 600, 1.0, None, ("armchair",)),
    "dining_area": (230, 350, 0.6, "table", ()),
    "office": (250, 400, 0.6, "office_door", ("desk",)),
    "guest_room": (250, 380, 0.35, None, ()),
    "storage": (150, 250, 0.25, None, ()),
}
DESCRIPTIONS = {
    "bed": ("bed",),
    "toilet": ("toilet",),
    "basin": ("washbasin", "sink"),
    "desk": ("desk", "computer desk"),
    "stove": ("stove", "oven"),
    "table": ("dining table",),
    "armchair": ("armchair", "sofa"),
}
# thing -> letter of its id, type, description, the place it is near, how often a home has it
THINGS: dict[str, tuple[str, str, str, str, float]] = {
    "bed_mat": ("B", "pressure", "bed", "bed", 0.7),
    "toilet_flush": ("F", "flush", "toilet flush", "toilet", 0.6),
    "fridge": ("D", "door", "fridge", "counter", 0.95),
    "stove_switch": ("S", "switch", "stove", "stove", 0.7),
    "tap": ("W", "water", "kitchen tap", "counter", 0.75),
    "medicine_cabinet": ("D", "door", "medicine cabinet", "counter", 0.8),
    "pill_box": ("I", "item", "pill box", "counter", 0.7),
    "tv_remote": ("I", "item", "TV remote", "armchair", 0.7),
    "front_door": ("D", "door", "front door", "front_door", 1.0),
}
ID_STYLES = ("{}{:03d}", "{}{:02d}", "{}1{:02d}", "{}A{:03d}")
SHARED = (("toilet", "basin", 0.25), ("stove", "counter", 0.2))  # how often one motion sensor sees both places
APART_CM = 90.0
MARGIN_CM = 35.0  # of a point to the walls


@dataclass
class Room:
    """A rectangle of the plan before it is turned: its corner, its size, and on which side the corridor runs."""

    name: str
    x: float
    y: float
    width: float
    height: float
    corridor_y: float

    @property
    def corners(self) -> list[Point]:
        """Return the four corners, clockwise."""
        right = self.x + self.width
        bottom = self.y + self.height
        return [(self.x, self.y), (right, self.y), (right, bottom), (self.x, bottom)]

    def draw_point(self, rng: np.random.Generator) -> Point:
        """Draw a point off the walls."""
        x = rng.uniform(self.x + MARGIN_CM, self.x + self.width - MARGIN_CM)
        y = rng.uniform(self.y + MARGIN_CM, self.y + self.height - MARGIN_CM)
        return float(x), float(y)

    def draw_point_at_door(self, rng: np.random.Generator) -> Point:
        """Draw a point just behind the door, which opens to the corridor."""
        inwards = 1 if self.corridor_y <= self.y else -1
        x = self.x + self.width * float(rng.uniform(0.3, 0.7))
        return x, self.corridor_y + inwards * float(rng.uniform(40, 80))


class PlannedSensor(NamedTuple):
    """A sensor without an id: its place before the plan is turned, room, type, and the letter of its id."""

    at: Point
    room: str
    type: str
    letter: str
    description: str | None


class HomeBuilder:
    """One home in the making; sensors are known by their number and get their ids last."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.sensors: list[PlannedSensor] = []
        self.paths: dict[int, list[int]] = {}
        self.places: dict[str, int] = {}
        self.things: dict[str, int] = {}
        self.area: dict[str, int] = {}
        self.thermometers: list[tuple[int, float, bool]] = []

    def chance(self, probability: float) -> bool:
        """Draw whether something of this probability happens."""
        return bool(self.rng.random() < probability)

    def add(self, letter: str, room: str, at: Point, type: str, description: str | None = None) -> int:
        """Add a sensor; return its number."""
        self.sensors.append(PlannedSensor(at, room, type, letter, description))
        return len(self.sensors) - 1

    def motion(self, room: str, at: Point, place: str | None = None) -> int:
        """Add a motion sensor, which is the dwelling's `place` if one is given; return its number."""
        description = str(self.rng.choice(DESCRIPTIONS[place])) if place in DESCRIPTIONS else None
        number = self.add("M", room, at, "motion", description)
        if place is not None:
            self.places[place] = number
        return number

    def connect(self, a: int, b: int) -> None:
        """Add a path between two motion sensors."""
        self.paths.setdefault(a, []).append(b)

    def draw_free_point(self, room: Room) -> Point:
        """Draw a point of the room away from the sensors in it; of those that were tried the farthest, if none is."""
        others = np.array([sensor.at for sensor in self.sensors if sensor.room == room.name])
        points = [room.draw_point(self.rng) for _ in range(12)]
        distance_cm = np.array([np.hypot(*(others - point).T).min() for point in points])
        is_free = distance_cm > APART_CM
        return points[int(is_free.argmax() if is_free.any() else distance_cm.argmax())]

    def corridor(self, width: float, top: float, depth: float) -> list[int]:
        """Add motion sensors along the corridor, the first one behind the front door; return their numbers."""
        count = max(2, round(width / float(self.rng.uniform(180, 320))))
        across = (np.arange(count) + 0.5) * width / count + self.rng.uniform(-30, 30, count)
        along = [self.motion("hallway", (float(x), top + depth / 2)) for x in across]
        for a, b in pairwise(along):
            self.connect(a, b)
        self.places["front_door"] = along[0]
        self.things["front_door"] = self.add("D", "hallway", (8.0, top + depth / 2), "door", "front door")
        return along

    def furnish(self, room: Room, corridor: Sequence[int], more: Sequence[str]) -> int:
        """Add a room's motion sensors: at the door, at its places and at those of rooms that this home lacks.

        Returns:
            The number of the one at the door.
        """
        _, _, _, door_place, places = ROOMS[room.name]
        door = self.motion(room.name, room.draw_point_at_door(self.rng), door_place)
        nearest = min(corridor, key=lambda i: abs(self.sensors[i].at[0] - self.sensors[door].at[0]))
        self.connect(nearest, door)
        for place in (*places, *more):
            shared_with = next((b for a, b, often in SHARED if a == place and self.chance(often)), None)
            if shared_with is not None:
                self.places[place] = self.places[shared_with]
            else:
                self.connect(door, self.motion(room.name, self.draw_free_point(room), place))
        if room.width * room.height > 120_000 and self.chance(0.5):  # 12 square metres
            self.connect(door, self.motion(room.name, self.draw_free_point(room)))
        if room.name in ("kitchen", "living_room", "bedroom") and self.chance(0.5):
            centre = (room.x + room.width / 2, room.y + room.height / 2)
            self.area[room.name] = self.add("M", room.name, centre, "motion_area")
        return door

    def equip(self, rooms: Mapping[str, Room]) -> None:
        """Add doors, items, taps, ... near the places they belong to, and thermometers."""
        for thing, (letter, kind, description, place, often) in THINGS.items():
            if thing not in self.things and self.chance(often):
                place_sensor = self.sensors[self.places[place]]
                room = rooms[place_sensor.room]
                x, y = place_sensor.at
                dx, dy = self.rng.uniform(-70, 70, 2)
                at = (
                    float(np.clip(x + dx, room.x + 5, room.x + room.width - 5)),
                    float(np.clip(y + dy, room.y + 5, room.y + room.height - 5)),
                )
                self.things[thing] = self.add(letter, room.name, at, kind, description)
        for name, often in (("kitchen", 0.9), ("bedroom", 0.5), ("living_room", 0.4), ("bathroom", 0.3)):
            if self.chance(often):
                number = self.add("T", name, rooms[name].draw_point(self.rng), "temperature")
                self.thermometers.append((number, float(self.rng.uniform(17, 23)), name == "kitchen"))

    def draw_names(self) -> list[str]:
        """Draw an id for each sensor: a letter and a number in this home's style, in no order."""
        style = str(self.rng.choice(ID_STYLES))
        names = [""] * len(self.sensors)
        for letter in sorted({sensor.letter for sensor in self.sensors}):
            of_letter = [i for i, sensor in enumerate(self.sensors) if sensor.letter == letter]
            for number, i in enumerate(self.rng.permutation(of_letter), start=1):
                names[i] = style.format(letter, number)
        return names


def _draw_rooms(rng: np.random.Generator) -> tuple[list[Room], float, float, float]:
    """Draw the rooms on both sides of the corridor; the home's width, the corridor's upper edge and depth, in cm."""
    chosen = [name for name, (_, _, often, _, _) in ROOMS.items() if rng.random() < often]
    sides: tuple[list[tuple[str, float]], list[tuple[str, float]]] = ([], [])
    for name in rng.permutation(chosen):
        shorter = min(sides, key=lambda side: sum(width for _, width in side))
        shorter.append((str(name), float(rng.uniform(*ROOMS[name][:2]))))
    home_width = max(sum(width for _, width in side) for side in sides)
    above = float(rng.uniform(260, 420))
    corridor = float(rng.uniform(110, 170))
    below = float(rng.uniform(260, 420))
    rooms = []
    for side, y, height, edge in (
        (sides[0], 0.0, above, above),
        (sides[1], above + corridor, below, above + corridor),
    ):
        x = 0.0
        stretch = home_width / sum(width for _, width in side)
        for name, width in side:
            rooms.append(Room(name, x, y, width * stretch, height, edge))
            x += width * stretch
    return rooms, home_width, above, corridor


def _draw_orientation(size: Point, rng: np.random.Generator) -> tuple[Point, Callable[[Point], list[float]]]:
    """Draw how the plan is mirrored and turned; return its size then, and a function from a point to its new place."""
    mirror_x, mirror_y, swap = (bool(rng.random() < 0.5) for _ in range(3))

    def moved(point: Point) -> list[float]:
        x = size[0] - point[0] if mirror_x else point[0]
        y = size[1] - point[1] if mirror_y else point[1]
        return [round(y, 1), round(x, 1)] if swap else [round(x, 1), round(y, 1)]

    return (size[1], size[0]) if swap else size, moved


def draw_dwelling(seed: int, number: int) -> Dwelling:
    """Draw home `number` of the family that `seed` stands for; its layout is called `synthetic_007` for number 7.

    The same two numbers always give the same home, however many others are made.
    """
    rng = np.random.default_rng([seed, number, 0])
    builder = HomeBuilder(rng)
    rooms, width, top, depth = _draw_rooms(rng)
    by_name = {room.name: room for room in rooms}
    more: dict[str, list[str]] = {name: [] for name in by_name}
    if "dining_area" not in by_name:
        more[str(rng.choice(["kitchen", "living_room"]))].append("table")
    desk_room = "office" if "office" in by_name else str(rng.choice(["bedroom", "living_room"]))
    if desk_room != "office":
        more[desk_room].append("desk")
    along = builder.corridor(width, top, depth)
    doors = {room.name: builder.furnish(room, along, more[room.name]) for room in rooms}
    builder.places.setdefault("office_door", doors[desk_room])
    for a, b in pairwise(rooms):  # an open kitchen: a path that needs no corridor
        neighbours = a.y == b.y and {a.name, b.name} <= {"kitchen", "living_room", "dining_area"}
        if neighbours and builder.chance(0.6):
            builder.connect(doors[a.name], doors[b.name])
    hallway = Room("hallway", 0.0, top, width, depth, top)
    builder.equip({**by_name, "hallway": hallway})
    lowest = max(room.y + room.height for room in rooms)
    return _finish(builder, [*rooms, hallway], (width, lowest), f"synthetic_{number:03d}", seed)


def _finish(builder: HomeBuilder, rooms: Sequence[Room], size: Point, home: str, seed: int) -> Dwelling:
    """Turn the plan, name the sensors and check the layout."""
    (width, height), moved = _draw_orientation(size, builder.rng)
    names = builder.draw_names()
    sensors: dict[str, Sensor] = {}
    for name, planned in sorted(zip(names, builder.sensors, strict=True)):
        x, y = moved(planned.at)
        sensors[name] = {"x": x, "y": y, "room": planned.room, "type": planned.type}
        if planned.description is not None:
            sensors[name]["description"] = planned.description
    shipped = load_layout("synthetic")
    layout: Layout = {
        "home": home,
        "size": [round(width, 1), round(height, 1)],
        "source": f"invented by casita build --synthetic, seed {seed}; lengths in centimetres",
        "redistribution": shipped["redistribution"],
        "terms": shipped["terms"],
        "residents": shipped["residents"],
        "rooms": {room.name: [moved(corner) for corner in room.corners] for room in rooms},
        "sensors": sensors,
        "activities": shipped["activities"],
    }
    assert not (violations := list(check_layout(layout))), violations
    return Dwelling(
        layout=layout,
        paths={names[a]: tuple(names[b] for b in others) for a, others in builder.paths.items()},
        places={place: names[i] for place, i in builder.places.items()},
        things={thing: names[i] for thing, i in builder.things.items()},
        area={room: names[i] for room, i in builder.area.items()},
        thermometers=tuple((names[i], mean, by_the_stove) for i, mean, by_the_stove in builder.thermometers),
    )


def draw_person(seed: int, number: int) -> Person:
    """Draw who lives in home `number`: an early or a late riser, at home a lot or not, quick or slow, ..."""
    draw = np.random.default_rng([seed, number, 1]).uniform
    late_h = float(draw(-1.7, 2.2))
    later_h = float(draw(0.0, 1.8))  # at weekends
    desk = float(draw(0.1, 0.65))
    tv = float(draw(0.1, 0.3))
    wake_h = 6.8 + late_h
    bed_h = 22.0 + late_h + float(draw(-0.6, 0.8))
    return Person(
        wake_h=(wake_h, wake_h + later_h),
        lunch_h=12.3 + 0.6 * late_h + float(draw(-0.4, 0.5)),
        dinner_h=17.8 + 0.6 * late_h + float(draw(-0.7, 0.9)),
        bed_h=(bed_h, bed_h + 0.6 * later_h),
        punctual=float(draw(0.5, 1.6)),
        desk_share=(desk, float(draw(0.0, 0.2))),
        tv_share=(tv, float(draw(0.25, 0.6))),
        nightly_trips=float(draw(0.2, 2.0)),
        morning_pills=float(draw(0.4, 1.0)),
        evening_pills=float(draw(0.3, 1.0)),
        dishes=float(draw(0.3, 1.0)),
        errands=float(draw(0.3, 0.8)),
        meal_length=float(draw(0.7, 1.4)),
        restless=float(draw(0.45, 1.0)),
        walking_cm_per_s=float(draw(55, 105)),
    )
