"""A day on the floor plan: the plan as SVG, and what changes on it second by second.

The browser plays the changes (`playback.js`); `states_at` and `frame` say the same for one moment, on the server.
"""

import base64
import io
from html import escape
from typing import Any

import numpy as np
from matplotlib.path import Path

from casita.datasets_scripts.pictures.draw import Frame, draw_background, room_tints
from casita.datasets_scripts.pictures.palettes import PALETTE, RANK, colour_of
from casita.model_cards.space.place import Day, Place
from casita.processing.event_windows import level_of

SILENT = "silent"  # the state of a sensor that has not spoken yet
DOT, LETTER = 0.013, 0.027  # radius and height, as shares of the plan's longer side
PICTURE_SIDE = 900  # pixels, where the plan is a picture


def playback(place: Place, name: str, at_s: float = 0.0) -> dict[str, Any]:
    """What the browser needs to play a day.

    `svg`; `sensors` (id, where it is in words); `looks` (a sensor's state: `text`, `colour`, `on`); `first`, the
    sensors' looks at midnight; `changes`, `[second, sensor, look]` by time; `logged`, `[begin, end, label]`; `day`;
    `at`, the second to begin with. Sensors and looks are meant by their numbers.
    """
    day, sensors = place.day(name), list(place.layout["sensors"])
    number = {sensor: i for i, sensor in enumerate(sensors)}
    looks: list[dict[str, Any]] = []
    known: dict[tuple[str, str], int] = {}

    def look(sensor: str, state: str) -> int:
        if (sensor, state) not in known:
            known[sensor, state] = len(looks)
            looks.append(_look(place, sensor, state))
        return known[sensor, state]

    before = place.before(name)
    first = [look(sensor, before.get(sensor, SILENT)) for sensor in sensors]
    changes = [
        [round(t_s, 6), number[sensor], look(sensor, state)]
        for t_s, sensor, state in zip(day.t_s.tolist(), day.sensors, day.states, strict=True)
        if sensor in number
    ]
    told = [[sensor, words(place, sensor)] for sensor in sensors]
    svg = plan_svg(place, {sensor: looks[i] for sensor, i in zip(sensors, first, strict=True)}) + kinds_html(place)
    shown = {"svg": svg, "sensors": told}
    return shown | {
        "looks": looks,
        "first": first,
        "changes": changes,
        "logged": day.logged,
        "day": name,
        "at": at_s or opening_s(day),
    }


def opening_s(day: Day) -> float:
    """The whole second at which a person would begin to watch: the first event after six in the morning, if any."""
    later = day.t_s[day.t_s >= 6 * 3600]
    return float(np.ceil(later[0])) if len(later) else 0.0


def states_at(place: Place, name: str, second: float) -> dict[str, str]:
    """Each placed sensor's state at a moment of a day."""
    day, states = place.day(name), place.before(name)
    until = int(np.searchsorted(day.t_s, second, side="right"))
    states |= dict(zip(day.sensors[:until], day.states[:until], strict=True))
    return {sensor: states.get(sensor, SILENT) for sensor in place.layout["sensors"]}


def frame(place: Place, name: str, second: float) -> tuple[str, dict[str, str]]:
    """The floor plan at a moment of a day, as SVG, and the sensors' states."""
    states = states_at(place, name, second)
    return plan_svg(place, {sensor: _look(place, sensor, state) for sensor, state in states.items()}), states


def words(place: Place, sensor: str) -> str:
    """`kitchen, stove`: where a sensor is."""
    told = place.layout["sensors"][sensor]
    parts = [told["room"].replace("_", " "), told.get("description") or told["type"].replace("_", " ")]
    return ", ".join(parts)


def kinds_html(place: Place) -> str:
    """What the dots mean: a kind of sensor, a colour; bright while it is active."""
    kinds = sorted({told["type"] for told in place.layout["sensors"].values()})
    chips = (
        f'<span><i style="background:{_hex(PALETTE[kind][2])}"></i>{kind.replace("_", " ")}</span>' for kind in kinds
    )
    return f'<div class="legend kinds"><b>Bright while active</b>{"".join(chips)}</div>'


def plan_svg(place: Place, looks: dict[str, dict[str, Any]]) -> str:
    """The floor plan with a dot for each sensor; `looks` as in `playback`, by sensor."""
    width, height = place.layout["size"]
    unit = max(width, height)
    edge = 0.02 * unit  # so that a dot on the wall is whole
    rooms = _rooms(place, unit) if place.layout.get("rooms") and "floor_plan" not in place.layout else _picture(place)
    dots = "".join(_dot(place, sensor, look, unit) for sensor, look in looks.items())
    return (
        f'<svg class="plan" role="img" aria-label="Floor plan of {escape(place.name)}" '
        f'viewBox="{-edge:g} {-edge:g} {width + 2 * edge:g} {height + 2 * edge:g}">{rooms}{dots}</svg>'
    )


def _rooms(place: Place, unit: float) -> str:
    parts, tints = [], room_tints(place.layout)
    for room, polygon in place.layout["rooms"].items():
        points = " ".join(f"{x:g},{y:g}" for x, y in polygon)
        red, green, blue = (round(255 - 0.55 * (255 - part)) for part in tints[room])
        parts.append(f'<polygon points="{points}" fill="{_hex((red, green, blue))}" stroke-width="{unit / 250:g}"/>')
    sensors = np.array([[told["x"], told["y"]] for told in place.layout["sensors"].values()], float).reshape(-1, 2)
    for room, polygon in place.layout["rooms"].items():
        name = room.replace("_", " ")
        x, y = free_spot(np.asarray(polygon, float), sensors, 0.28 * len(name) * LETTER * unit)
        parts.append(f'<text x="{x:.5g}" y="{y:.5g}" font-size="{LETTER * unit:g}">{escape(name)}</text>')
    return "".join(parts)


def free_spot(polygon: np.ndarray, sensors: np.ndarray, half_width: float, steps: int = 24) -> tuple[float, float]:
    """Where in a room `(P, 2)` a name of that half width lies furthest from walls and from sensors `(N, 2)`."""
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    across = [np.linspace(low[axis], high[axis], steps + 2)[1:-1] for axis in (0, 1)]
    spots = np.stack(np.meshgrid(*across), axis=-1).reshape(-1, 2)
    outline = Path(polygon)
    ends = [spots + np.array([side * half_width, 0]) for side in (-1, 0, 1)]  # left end, middle, right end of the name
    inside = np.all([outline.contains_points(end) for end in ends], axis=0)
    spots = spots[inside] if inside.any() else polygon.mean(axis=0, keepdims=True)
    corners = np.concatenate(
        [np.linspace(a, b, 20) for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True)]
    )
    gap = spots[:, None] - np.concatenate([corners, sensors])[None]
    aside = np.maximum(np.abs(gap[..., 0]) - half_width, 0)
    room = np.hypot(aside, gap[..., 1]).min(axis=1)
    x, y = spots[room.argmax()]
    return float(x), float(y)


def _picture(place: Place) -> str:
    """The plan's own picture, or one drawn from where the sensors are."""
    frame = Frame.fit(place.layout, PICTURE_SIDE)
    file = io.BytesIO()
    draw_background(place.layout, PICTURE_SIDE, place.folder).save(file, "PNG")
    side, left, top = PICTURE_SIDE / frame.scale, -frame.left / frame.scale, -frame.top / frame.scale
    data = base64.b64encode(file.getvalue()).decode()
    return f'<image x="{left:g}" y="{top:g}" width="{side:g}" height="{side:g}" href="data:image/png;base64,{data}"/>'


def _dot(place: Place, sensor: str, look: dict[str, Any], unit: float) -> str:
    told, radius = place.layout["sensors"][sensor], DOT * unit
    return (
        f'<g class="sensor{" on" if look["on"] else ""}" data-sensor="{escape(sensor)}" '
        f'data-state="{escape(look["text"])}" style="--dot:{look["colour"]}" '
        f'transform="translate({told["x"]:g} {told["y"]:g})"><circle class="halo" r="{2.2 * radius:g}"/>'
        f'<circle class="dot" r="{radius:g}" stroke-width="{radius / 5:g}"/>'
        f"<title>{escape(sensor)}: {escape(words(place, sensor))}</title></g>"
    )


def _look(place: Place, sensor: str, state: str) -> dict[str, Any]:
    """How a sensor in a state is drawn; a reading has the colour of its level."""
    if state == SILENT:
        return {"text": state, "colour": "#b8b4ab", "on": False}
    name = state
    if sensor in place.levels:
        try:
            name = str(level_of(np.asarray(float(state)), *place.levels[sensor]))
        except ValueError:  # a thermometer's own word for "no reading"
            name = state
    colour = _hex(colour_of(place.layout["sensors"][sensor]["type"], name))
    return {"text": state, "colour": colour, "on": RANK.get(name, 2) == 2}


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
