"""A day on the floor plan: the plan as SVG, and what changes on it second by second.

The browser plays the changes (`playback.js`); `states_at` and `frame` give the same for one moment, on the server.
"""

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import TypedDict

import numpy as np
from matplotlib.path import Path

from casita.datasets_scripts.pictures.draw import Frame, draw_background, room_tints
from casita.datasets_scripts.pictures.palettes import PALETTE, RANK, colour_of
from casita.model_cards.space.home_view import Day, HomeView
from casita.processing.event_windows import level_of

SILENT = "silent"  # the state of a sensor that has not spoken yet
DOT = 0.013  # radius, as a share of the plan's longer side
LETTER = 0.027  # height, likewise
PICTURE_SIDE = 900  # pixels, where the plan is a picture


class Look(TypedDict):
    """The drawing of a sensor in a state."""

    text: str
    colour: str
    on: bool


class Playback(TypedDict):
    """A day for the browser, in which sensors and looks are meant by their numbers."""

    svg: str
    sensors: list[tuple[str, str]]  # id, and in words where it is
    looks: list[Look]
    first: list[int]  # each sensor's look at midnight
    changes: list[tuple[float, int, int]]  # second, sensor, look; by time
    logged: list[tuple[float, float, str]]  # begin, end, label
    day: str
    at: float  # the second to begin with


def playback(view: HomeView, name: str, at_s: float = 0.0) -> Playback:
    """Return what the browser needs to play a day."""
    day = view.day(name)
    sensors = list(view.layout["sensors"])
    number_of_sensor = {sensor: i for i, sensor in enumerate(sensors)}
    midnight = view.states_before(name)
    at_midnight = [(sensor, midnight.get(sensor, SILENT)) for sensor in sensors]
    events = zip(day.t_s.tolist(), day.sensors, day.states, strict=True)
    placed = [event for event in events if event[1] in number_of_sensor]
    # Each sensor state once, in the order in which they come up.
    distinct = dict.fromkeys([*at_midnight, *((sensor, state) for _, sensor, state in placed)])
    number_of_look = {sensor_state: i for i, sensor_state in enumerate(distinct)}
    looks = [_look(view, sensor, state) for sensor, state in distinct]
    first = [number_of_look[sensor_state] for sensor_state in at_midnight]
    changes = [
        (round(t_s, 6), number_of_sensor[sensor], number_of_look[sensor, state]) for t_s, sensor, state in placed
    ]
    plan = plan_svg(view, {sensor: looks[i] for sensor, i in zip(sensors, first, strict=True)})
    return {
        "svg": plan + kinds_html(view),
        "sensors": [(sensor, words(view, sensor)) for sensor in sensors],
        "looks": looks,
        "first": first,
        "changes": changes,
        "logged": day.logged,
        "day": name,
        "at": at_s or opening_s(day),
    }


def opening_s(day: Day) -> float:
    """Return the second at which a person would begin to watch: the first event after six in the morning, if any."""
    later = day.t_s[day.t_s >= 6 * 3600]
    return float(np.ceil(later[0])) if len(later) else 0.0


def states_at(view: HomeView, name: str, second: float) -> dict[str, str]:
    """Return each placed sensor's state at a moment of a day."""
    day = view.day(name)
    states = view.states_before(name)
    until = int(np.searchsorted(day.t_s, second, side="right"))
    states |= dict(zip(day.sensors[:until], day.states[:until], strict=True))
    return {sensor: states.get(sensor, SILENT) for sensor in view.layout["sensors"]}


def frame(view: HomeView, name: str, second: float) -> tuple[str, dict[str, str]]:
    """Return the floor plan at a moment of a day, as SVG, and the sensors' states."""
    states = states_at(view, name, second)
    return plan_svg(view, {sensor: _look(view, sensor, state) for sensor, state in states.items()}), states


def words(view: HomeView, sensor: str) -> str:
    """Say where a sensor is: `kitchen, stove`."""
    placed = view.layout["sensors"][sensor]
    thing = placed.get("description") or placed["type"].replace("_", " ")
    return f"{placed['room'].replace('_', ' ')}, {thing}"


def kinds_html(view: HomeView) -> str:
    """Return the legend of the dots: a kind of sensor, a colour; bright while it is active."""
    kinds = sorted({sensor["type"] for sensor in view.layout["sensors"].values()})
    chips = (
        f'<span><i style="background:{_hex(PALETTE[kind][2])}"></i>{kind.replace("_", " ")}</span>' for kind in kinds
    )
    return f'<div class="legend kinds"><b>Bright while active</b>{"".join(chips)}</div>'


def plan_svg(view: HomeView, looks: Mapping[str, Look]) -> str:
    """Draw the floor plan with a dot for each sensor; `looks` are by sensor."""
    width, height = view.layout["size"]
    unit = max(width, height)
    edge = 0.02 * unit  # so that a dot on the wall is whole
    rooms = _rooms(view, unit) if view.layout.get("rooms") and "floor_plan" not in view.layout else _picture(view)
    dots = "".join(_dot(view, sensor, look, unit) for sensor, look in looks.items())
    return (
        f'<svg class="plan" role="img" aria-label="Floor plan of {escape(view.name)}" '
        f'viewBox="{-edge:g} {-edge:g} {width + 2 * edge:g} {height + 2 * edge:g}">{rooms}{dots}</svg>'
    )


def _rooms(view: HomeView, unit: float) -> str:
    parts = []
    tints = room_tints(view.layout)
    for room, polygon in view.layout["rooms"].items():
        points = " ".join(f"{x:g},{y:g}" for x, y in polygon)
        red, green, blue = (round(255 - 0.55 * (255 - part)) for part in tints[room])
        parts.append(f'<polygon points="{points}" fill="{_hex((red, green, blue))}" stroke-width="{unit / 250:g}"/>')
    positions = [[sensor["x"], sensor["y"]] for sensor in view.layout["sensors"].values()]
    sensors = np.array(positions, float).reshape(-1, 2)
    for room, polygon in view.layout["rooms"].items():
        name = room.replace("_", " ")
        x, y = free_spot(np.asarray(polygon, float), sensors, 0.28 * len(name) * LETTER * unit)
        parts.append(f'<text x="{x:.5g}" y="{y:.5g}" font-size="{LETTER * unit:g}">{escape(name)}</text>')
    return "".join(parts)


def free_spot(polygon: np.ndarray, sensors: np.ndarray, half_width: float, steps: int = 24) -> tuple[float, float]:
    """Find where in a room `(P, 2)` a name of that half width lies furthest from walls and from sensors `(N, 2)`."""
    low = polygon.min(axis=0)
    high = polygon.max(axis=0)
    grid = [np.linspace(low[axis], high[axis], steps + 2)[1:-1] for axis in (0, 1)]
    spots = np.stack(np.meshgrid(*grid), axis=-1).reshape(-1, 2)  # (S, 2), within the room's bounding box
    outline = Path(polygon)
    ends = [spots + np.array([side * half_width, 0]) for side in (-1, 0, 1)]  # left end, middle, right end of the name
    is_inside = np.all([outline.contains_points(end) for end in ends], axis=0)
    spots = spots[is_inside] if is_inside.any() else polygon.mean(axis=0, keepdims=True)
    next_corners = np.roll(polygon, -1, axis=0)
    walls = [np.linspace(a, b, 20) for a, b in zip(polygon, next_corners, strict=True)]  # points along each wall
    obstacles = np.concatenate([*walls, sensors])
    offset = spots[:, None] - obstacles[None]  # (S, obstacles, 2)
    beside_name = np.maximum(np.abs(offset[..., 0]) - half_width, 0)
    clearance = np.hypot(beside_name, offset[..., 1]).min(axis=1)
    x, y = spots[clearance.argmax()]
    return float(x), float(y)


def _picture(view: HomeView) -> str:
    """Embed the plan's own picture, or one drawn from where the sensors are."""
    frame = Frame.fit(view.layout, PICTURE_SIDE)
    file = io.BytesIO()
    draw_background(view.layout, PICTURE_SIDE, view.folder).save(file, "PNG")
    side = PICTURE_SIDE / frame.scale
    left = -frame.left / frame.scale
    top = -frame.top / frame.scale
    data = base64.b64encode(file.getvalue()).decode()
    return f'<image x="{left:g}" y="{top:g}" width="{side:g}" height="{side:g}" href="data:image/png;base64,{data}"/>'


def _dot(view: HomeView, sensor: str, look: Look, unit: float) -> str:
    placed = view.layout["sensors"][sensor]
    radius = DOT * unit
    return (
        f'<g class="sensor{" on" if look["on"] else ""}" data-sensor="{escape(sensor)}" '
        f'data-state="{escape(look["text"])}" style="--dot:{look["colour"]}" '
        f'transform="translate({placed["x"]:g} {placed["y"]:g})"><circle class="halo" r="{2.2 * radius:g}"/>'
        f'<circle class="dot" r="{radius:g}" stroke-width="{radius / 5:g}"/>'
        f"<title>{escape(sensor)}: {escape(words(view, sensor))}</title></g>"
    )


def _look(view: HomeView, sensor: str, state: str) -> Look:
    """Return how a sensor in a state is drawn; a reading has the colour of its level."""
    if state == SILENT:
        return {"text": state, "colour": "#b8b4ab", "on": False}
    name = state
    if sensor in view.levels:
        try:
            name = str(level_of(np.asarray(float(state)), *view.levels[sensor]))
        except ValueError:  # a thermometer's own word for "no reading"
            name = state
    colour = _hex(colour_of(view.layout["sensors"][sensor]["type"], name))
    return {"text": state, "colour": colour, "on": RANK.get(name, 2) == 2}


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
