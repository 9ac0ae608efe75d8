"""The floor plan of the page: windows as routes through the home, and how alike the sensors' embeddings are."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.path import Path

from casita.datasets_scripts.layouts.layout import Layout
from casita.datasets_scripts.pictures.palettes import RANK
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.report.svg import Drawing, Point
from casita.train.report.wording import readable

SIDE = 320.0  # units of the longer side of every drawing
MARGIN = 8.0
STEPS = 6  # shades from the first event of a window to the last
LETTER = 4.3  # width of a letter of a room's name
DOT, SMALL_DOT, MANY = 6.5, 4.5, 60  # radius of a sensor whose likeness is shown, and in a home of many
NAMED_EVENTS = 5  # of one sensor, when it is pointed at


class FloorPlan:
    """A layout in a drawing's units: `positions` has each sensor's point, `size` is the drawing's."""

    def __init__(self, layout: Layout):
        self.layout = layout
        width, height = layout["size"]
        self.scale = (SIDE - 2 * MARGIN) / max(width, height)
        self.size = (2 * MARGIN + width * self.scale, 2 * MARGIN + height * self.scale)
        self.positions = {name: self.at(sensor["x"], sensor["y"]) for name, sensor in layout["sensors"].items()}

    def at(self, x: float, y: float) -> Point:
        """Return where a position of the layout lies in a drawing."""
        return MARGIN + x * self.scale, MARGIN + y * self.scale

    def room(self, sensor: str) -> str:
        """Return the room of a sensor."""
        return self.layout["sensors"][sensor]["room"]

    def symbol(self) -> Markup:
        """Draw the plan once: every other drawing refers to it."""
        drawing = Drawing(*self.size, title="floor plan", css="defs")
        plan = drawing.add("g", within=drawing.add("defs"), id="plan")
        for i, polygon in enumerate(self.layout.get("rooms", {}).values()):
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*corner) for corner in polygon))
            # Steps of the golden ratio: neighbours in the list get hues far apart.
            hue = round(360 * (i * 0.618034 % 1))
            drawing.add("polygon", within=plan, css="room", points=points, style=f"--h:{hue}")
        (left, top), (right, bottom) = self.at(0, 0), self.at(*self.layout["size"])
        drawing.add("rect", within=plan, css="walls", x=left, y=top, width=right - left, height=bottom - top)
        for x, y in self.positions.values():
            drawing.add("circle", within=plan, css="place", cx=x, cy=y, r=1.6)
        return Markup(drawing)

    def drawing(self, title: str, css: str) -> Drawing:
        """Return a drawing with the plan in it, to draw on."""
        drawing = Drawing(*self.size, title=title, css=css)
        drawing.add("use", href="#plan")
        return drawing

    def name_rooms(self, drawing: Drawing) -> None:
        """Write the name of each room that has space for it, clear of sensors; without polygons, amid its sensors."""
        rooms: dict[str, list[Point]] = {}
        for name, sensor in self.layout["sensors"].items():
            rooms.setdefault(sensor["room"], []).append(self.positions[name])
        polygons = {
            room: [self.at(*corner) for corner in polygon] for room, polygon in self.layout.get("rooms", {}).items()
        }
        for room, points in (rooms | polygons).items():
            name = readable(room)
            at = self._clear_of_sensors(points, name) if room in polygons else np.mean(points, axis=0)
            if at is not None:
                drawing.write((at[0], at[1] + 3), name, "room-name middle")

    def _clear_of_sensors(self, polygon: Sequence[Point], name: str) -> np.ndarray | None:
        """Find where a name fits into `polygon`, clear of dots and near its middle if it can be; None if nowhere."""
        low = np.min(polygon, axis=0)
        high = np.max(polygon, axis=0)
        grid = np.stack(np.meshgrid(*np.linspace(low, high, 31).T), axis=-1).reshape(-1, 2)
        half = np.array([LETTER * len(name) / 2 + 2, 6.0])
        corners = grid[:, None] + half * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        within = Path(polygon).contains_points(corners.reshape(-1, 2)).reshape(-1, 4).sum(axis=1)
        dots = np.array(list(self.positions.values()))
        gaps = np.maximum(np.abs(grid[:, None] - dots) - half, 0)
        clear = np.minimum(np.sqrt((gaps**2).sum(axis=-1)).min(axis=1), DOT)
        aside = np.linalg.norm(grid - (low + high) / 2, axis=1)
        best = np.lexsort((aside, -clear, -within))[0]  # the last key counts first: corners within, then clear of dots
        return grid[best] if within[best] == 4 else None


def draw_window(plan: FloorPlan, window: Mapping[str, Any], title: str) -> Drawing:
    """Draw a window's events as a route through the home, shaded from the first to the last, with both times.

    A line bends to the right of its direction, so that there and back are two lines. Sensors without a place on the
    plan are not drawn.
    """
    drawing = plan.drawing(title, "path")
    sensors = [key.rpartition("_")[0] for key in window["sensor_keys"]]
    placed = [i for i, sensor in enumerate(sensors) if sensor in plan.positions]
    stops = [list(events) for _, events in groupby(placed, key=lambda i: sensors[i])]
    if not stops:
        drawing.write((plan.size[0] / 2, plan.size[1] / 2), "no event has a place on the plan", "tick middle")
        return drawing
    last = max(len(sensors) - 1, 1)
    for one, other in pairwise(stops):
        x, y = plan.positions[sensors[one[0]]]
        to_x, to_y = plan.positions[sensors[other[0]]]
        # the control point: the middle, moved by an eighth of the way at a right angle to it
        bend_x = (x + to_x) / 2 - (to_y - y) / 8
        bend_y = (y + to_y) / 2 + (to_x - x) / 8
        line = f"M{x:.1f} {y:.1f}Q{bend_x:.1f} {bend_y:.1f} {to_x:.1f} {to_y:.1f}"
        drawing.add("path", css=f"route t{_step(other[0], last)}", d=line)
    for sensor in dict.fromkeys(sensors[i] for i in placed):
        events = [i for i in placed if sensors[i] == sensor]
        radius = 3 + min(4.0, 0.6 * len(events) ** 0.7)
        title = f"{sensor}, {readable(plan.room(sensor))}: {_events(window, events)}"
        css = f"stop t{_step(events[len(events) // 2], last)}"
        drawing.circle(plan.positions[sensor], radius, title, css=css, data_sensor=sensor)
    _write_times(drawing, window, [(i, plan.positions[sensors[i]]) for i in (placed[0], placed[-1])])
    return drawing


def _step(event: int, last: int) -> int:
    return min(STEPS - 1, STEPS * event // last)


def _events(window: Mapping[str, Any], events: Sequence[int]) -> str:
    names = [f"{moment(window, i):%H:%M:%S} {window['sensor_keys'][i].rpartition('_')[2]}" for i in events]
    more = f", and {len(names) - NAMED_EVENTS} more" if len(names) > NAMED_EVENTS else ""
    return ", ".join(names[:NAMED_EVENTS]) + more


def moment(window: Mapping[str, Any], event: int) -> datetime:
    """Return when an event of a window happened."""
    return window["start"] + timedelta(seconds=float(window["seconds"][event]))


def _write_times(drawing: Drawing, window: Mapping[str, Any], ends: Sequence[tuple[int, Point]]) -> None:
    """Write the first and last times, the upper one above its dot and the lower one below: never on each other."""
    upper = min(range(2), key=lambda i: ends[i][1][1])
    for i, (event, (x, y)) in enumerate(ends):
        shift = -11 if i == upper else 19
        at = (min(max(x, 22), drawing.width - 22), min(max(y + shift, 12), drawing.height - 3))
        drawing.write(at, f"{moment(window, event):%H:%M}", f"time middle {'first' if i == 0 else 'last'}")


# ------------------------------------------------------------------------------------------------------- similarity
def active_keys(table: SensorEmbeddingTable, layout: Layout) -> dict[str, str]:
    """Return each placed sensor's key in its most active state that has a row: `{"M001": "M001_ON"}`."""
    active: dict[str, str] = {}
    for key in sorted(table.keys, key=lambda key: (RANK.get(key.rpartition("_")[2], 0), key)):
        sensor = key.rpartition("_")[0]
        if sensor in layout["sensors"]:
            active[sensor] = key
    return dict(sorted(active.items()))


def cosines(table: SensorEmbeddingTable, keys: Sequence[str]) -> np.ndarray:
    """Return `(S, S)` cosines of the rows of `keys`."""
    rows = table.select(list(keys)).embeddings.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return np.clip(rows @ rows.T, -1, 1)


def similarity(plan: FloorPlan, table: SensorEmbeddingTable, events: Mapping[str, int]) -> dict[str, Any] | None:
    """Draw how alike the sensors are to the busiest one, and return the drawing with all cosines for the page.

    Args:
        events: sensor -> how many it has.

    Returns:
        None with fewer than two sensors that have both a place and a row.
    """
    keys = active_keys(table, plan.layout)
    if len(keys) < 2:
        return None
    cosine = cosines(table, list(keys.values()))
    others = cosine[~np.eye(len(keys), dtype=bool)]
    low = float(others.min())
    high = max(float(others.max()), low + 1e-6)
    sensors = list(keys)
    chosen = max(range(len(sensors)), key=lambda i: (events.get(sensors[i], 0), -i))
    drawing = plan.drawing(f"Floor plan: how alike the other sensors are to {sensors[chosen]}", "alike")
    radius = DOT if len(sensors) <= MANY else SMALL_DOT
    for i, sensor in enumerate(sensors):
        share = (cosine[chosen, i] - low) / (high - low)
        title = f"{sensor}, {readable(plan.room(sensor))}: cosine {cosine[chosen, i]:.2f}"
        css = "sensor chosen" if i == chosen else "sensor"
        style = f"--v:{100 * min(max(share, 0), 1):.0f}%"
        drawing.circle(plan.positions[sensor], radius, title, css=css, style=style, data_i=i)
    plan.name_rooms(drawing)
    order = [int(i) for i in np.argsort(-cosine[chosen], kind="stable") if i != chosen]
    rooms = [readable(plan.room(sensor)) for sensor in sensors]
    return {
        "drawing": drawing,
        "chosen": chosen,
        "nearest": [(sensors[i], rooms[i], float(cosine[chosen, i])) for i in order[:5]],
        "data": {
            "sensors": sensors,
            "rooms": rooms,
            "low": low,
            "high": high,
            "cosines": np.round(1000 * cosine).astype(int).tolist(),  # in thousandths: a third of the size
        },
    }
