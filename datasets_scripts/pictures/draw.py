"""Pictures: one for each sensor in each of its states, a coloured dot on the home's floor plan.

A vision model sees these pictures, so they carry no words: the plan, and one dot. The dot's place stands for the
sensor, its colour for the type and the state (`palettes.py`). The contact sheet, for people, has the names.
"""

import argparse
import colorsys
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_cdt
from tqdm import tqdm

from casita.datasets_scripts.layouts.layout import NATURAL_STATES, Layout
from casita.datasets_scripts.pictures.contact_sheet import PLAN_SIDE, draw_contact_sheet
from casita.datasets_scripts.pictures.files import open_picture
from casita.datasets_scripts.pictures.palettes import DEFAULT_PALETTE, PAIRS, PALETTES, Colour, colour_of
from casita.datasets_scripts.schema import EVENTS, HomeFolder, add_folder_argument, home_folders, read_table, writes
from casita.files import hash_json, write_beside
from casita.processing.event_windows import LEVELS

DRAWING_VERSION = 1  # raise it when pictures change, so that homes are drawn again

WHITE, WALL, RIM = (255, 255, 255), (80, 80, 80), (20, 20, 20)
RADIUS = 0.04  # of the picture's side: 9 px at 224, so that a dot fills about one 16 px patch of a vision model
MARGIN = 0.045  # of the picture's side, so that a dot on the plan's edge is still whole
_FINE = 8  # supersampling of a dot


@dataclass(frozen=True)
class Frame:
    """The plan's place in a square picture of `side` pixels: its aspect kept, centred, the rest white."""

    side: int
    scale: float  # pixels for one unit of the layout
    left: float
    top: float

    @classmethod
    def fit(cls, layout: Layout, side: int) -> "Frame":
        """Fit the plan of `layout` into a picture of `side` pixels."""
        width, height = layout["size"]
        scale = side * (1 - 2 * MARGIN) / max(width, height)
        return cls(side, scale, (side - width * scale) / 2, (side - height * scale) / 2)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return a position of the layout in pixels of the picture."""
        return self.left + x * self.scale, self.top + y * self.scale


def picture_keys(layout: Layout, seen: Iterable[str]) -> list[str]:
    """Return the keys to draw, sorted: for each placed sensor the states `seen` (keys), completed to a natural set.

    A sensor seen ON may be OFF tomorrow, so a state brings its opposite, and a level brings the other two; a sensor
    never seen gets the states of its type (`NATURAL_STATES`). Sensors without a position cannot be drawn.
    """
    states: dict[str, set[str]] = {sensor: set() for sensor in layout["sensors"]}
    for key in seen:
        sensor, _, state = key.rpartition("_")
        if sensor in states:
            states[sensor].add(state)
    for sensor, seen_states in states.items():
        for group in (*PAIRS, LEVELS):
            if seen_states & set(group):
                seen_states.update(group)
        if not seen_states:
            seen_states.update(NATURAL_STATES[layout["sensors"][sensor]["type"]])
    return sorted(f"{sensor}_{state}" for sensor, sensor_states in states.items() for state in sensor_states)


def seen_keys(events_path: Path) -> list[str]:
    """Return the distinct keys of an events file; a sensor whose readings are mostly numbers has its three levels."""
    events = read_table(events_path, EVENTS, ["sensor", "state", "value"])
    sensors = events.group_by("sensor").aggregate([("value", "count"), ("state", "count")]).to_pylist()
    numeric = {row["sensor"] for row in sensors if 2 * row["value_count"] > row["state_count"]}
    is_reading = pc.and_(
        pc.is_in(events["sensor"], pa.array(sorted(numeric), pa.string())), events["value"].is_valid()
    )
    words = events.filter(pc.invert(is_reading))
    keys = {f"{row['sensor']}_{row['state']}" for row in words.group_by(["sensor", "state"]).aggregate([]).to_pylist()}
    return sorted(keys | {f"{sensor}_{level}" for sensor in numeric for level in LEVELS})


def draw_background(layout: Layout, size: int, folder: Path | None = None) -> Image.Image:
    """Draw the home without a dot, `size` x `size` RGB, its aspect kept, padded with white.

    With a `floor_plan` in the layout it is that picture (a relative path is taken from `folder`), stretched over the
    layout's `size`; else rooms and walls are drawn, from the polygons or, without any, from where the sensors are.
    """
    frame = Frame.fit(layout, size)
    if "floor_plan" in layout:
        return _draw_floor_plan(layout, frame, (folder or Path()) / layout["floor_plan"])
    return _draw_rooms(layout, frame)


def _draw_floor_plan(layout: Layout, frame: Frame, path: Path) -> Image.Image:
    plan = open_picture(path, "RGBA")
    width, height = layout["size"]
    if abs(math.log(plan.width / plan.height * height / width)) > 0.02:  # 2 %: a cropped edge, not another picture
        raise ValueError(
            f"{path}: the floor plan has {plan.width} x {plan.height} pixels, another shape than the layout's size "
            f"{width} x {height}. Give the plan that the coordinates were read from, or mend size."
        )
    picture = Image.new("RGB", (frame.side, frame.side), WHITE)
    width_px = max(1, round(width * frame.scale))
    height_px = max(1, round(height * frame.scale))
    plan = plan.resize((width_px, height_px), Image.Resampling.LANCZOS)
    picture.paste(plan, (round(frame.left), round(frame.top)), plan)
    return picture


def _draw_rooms(layout: Layout, frame: Frame) -> Image.Image:
    """Draw tinted rooms, walls and the outer frame, large and then reduced so that slanted walls are smooth."""
    fine = max(1, min(4, 2000 // frame.side))
    large = Frame.fit(layout, frame.side * fine)
    stroke = round(fine * max(1, min(3, frame.side / 160)))
    corners = [large.at(0, 0), large.at(*layout["size"])]
    tints = room_tints(layout)
    if layout.get("rooms"):
        picture = Image.new("RGB", (large.side, large.side), WHITE)
        pen = ImageDraw.Draw(picture)
        outlines = {room: [large.at(x, y) for x, y in polygon] for room, polygon in layout["rooms"].items()}
        for room, outline in outlines.items():
            pen.polygon(outline, fill=tints[room])
        for outline in outlines.values():  # after all tints, else a neighbour's covers half of a common wall
            pen.line([*outline, *outline[:2]], fill=WALL, width=stroke, joint="curve")
    else:
        picture = Image.fromarray(_nearest_rooms(layout, large, tints, stroke))
        pen = ImageDraw.Draw(picture)
    pen.rectangle([*corners[0], *corners[1]], outline=WALL, width=stroke)
    return picture.reduce(fine)


def _nearest_rooms(layout: Layout, frame: Frame, tints: dict[str, Colour], stroke: int) -> np.ndarray:
    """Return `(side, side, 3)` uint8: each point of the plan has the tint of its nearest sensor's room."""
    sensors = layout["sensors"].values()
    rooms = sorted(tints)
    across = np.arange(frame.side, dtype=np.float32)
    nearest = np.full((frame.side, frame.side), np.inf, np.float32)
    room = np.zeros((frame.side, frame.side), np.int16)
    for sensor in sensors:
        x, y = frame.at(sensor["x"], sensor["y"])
        distance = np.square(across - y)[:, None] + np.square(across - x)[None]
        room[distance < nearest] = rooms.index(sensor["room"])
        np.minimum(nearest, distance, out=nearest)
    wall = np.zeros_like(room, bool)
    for step in range(1, stroke + 1):
        wall[step:] |= room[step:] != room[:-step]
        wall[:, step:] |= room[:, step:] != room[:, :-step]
    picture = np.array([tints[name] for name in rooms], np.uint8)[room]
    picture[wall] = WALL
    right, bottom = frame.at(*layout["size"])
    outside = (across < frame.top)[:, None] | (across > bottom)[:, None] | (across < frame.left) | (across > right)
    picture[outside] = WHITE
    return picture


def room_tints(layout: Layout) -> dict[str, Colour]:
    """Return a pastel for each room that has a polygon or a sensor, far apart for neighbours in the alphabet."""
    rooms = sorted({sensor["room"] for sensor in layout["sensors"].values()} | set(layout.get("rooms", {})))
    golden = 0.618034  # steps of the golden ratio never come near an earlier hue for a long while
    hues = [colorsys.hsv_to_rgb(i * golden % 1, 0.16, 0.98) for i in range(len(rooms))]
    return {
        room: (round(r * 255), round(g * 255), round(b * 255)) for room, (r, g, b) in zip(rooms, hues, strict=True)
    }


def draw_sensor(
    background: Image.Image,
    layout: Layout,
    key: str,
    radius: float = RADIUS,
    palette: str = DEFAULT_PALETTE,
) -> Image.Image:
    """Copy `background` with the dot of `key`; `radius` is a share of the picture's side.

    `ValueError` when the layout has no position for the key's sensor.
    """
    sensor, _, state = key.rpartition("_")
    if sensor not in layout["sensors"]:
        raise ValueError(
            f"key {key!r}: sensor {sensor!r} has no position in the layout. Add it, or leave out its events."
        )
    place = layout["sensors"][sensor]
    picture = background.copy()
    at = Frame.fit(layout, picture.width).at(place["x"], place["y"])
    paste_dot(picture, at, radius, colour_of(place["type"], state, palette))
    return picture


def paste_dot(picture: Image.Image, at: tuple[float, float], radius: float, colour: Colour) -> None:
    """Paste a disc with a dark rim, anti-aliased, its centre exact to 1/8 pixel; `radius` as in `draw_sensor`."""
    radius_px = max(1.0, radius * picture.width)
    left, top = (math.floor(c - radius_px) - 1 for c in at)
    side = math.ceil(2 * radius_px) + 3
    centre = ((at[0] - left) * _FINE, (at[1] - top) * _FINE)
    disc = Image.new("L", (side * _FINE, side * _FINE))
    core = disc.copy()
    for image, share in ((disc, 1.0), (core, 0.85)):
        r = radius_px * share * _FINE
        ImageDraw.Draw(image).ellipse([centre[0] - r, centre[1] - r, centre[0] + r, centre[1] + r], fill=255)
    picture.paste(RIM, (left, top), disc.reduce(_FINE))
    picture.paste(colour, (left, top), core.reduce(_FINE))


@writes("draw")
def draw_home(
    folder: HomeFolder,
    size: int = 224,
    radius: float = RADIUS,
    progress: bool = True,
    palette: str = DEFAULT_PALETTE,
) -> dict[str, int] | None:
    """Draw every key of a home: `pictures/<quoted key>.png`, `pictures/index.json` (key -> file), `contact_sheet.png`.

    Args:
        folder: the home, read already (`events.parquet`) and with a layout.
        size: side of a picture in pixels; 224 is what CLIP, DINOv2 and SigLIP take.
        radius: of the dot, as a share of the side.
        progress: show a bar.
        palette: of the dots, a name of PALETTES.

    Returns:
        `{"pictures": n, "size": size}`, or None when the pictures are up to date.
    """
    if not (16 <= size <= 4096 and 0 < radius < 0.5):
        raise ValueError(f"size={size}, radius={radius}: expected 16 <= size <= 4096 pixels and 0 < radius < 0.5.")
    if palette not in PALETTES:
        raise ValueError(f"palette={palette!r} is unknown; known: {', '.join(PALETTES)}.")
    layout = folder.layout
    drawn_parts = {key: layout.get(key) for key in ("size", "rooms", "floor_plan", "sensors")}
    settings = {
        "version": DRAWING_VERSION,
        "size": size,
        "radius": radius,
        "palette": palette,
        "layout": hash_json(drawn_parts),
    }
    inputs = [folder.require(folder.events, "read")]
    if "floor_plan" in layout:
        inputs.append(folder.root / layout["floor_plan"])
    if folder.is_current("draw", settings, inputs):
        return None
    keys = picture_keys(layout, seen_keys(folder.events))
    sheet = folder.root / "contact_sheet.png"
    with write_beside(sheet) as temporary, write_beside(folder.pictures) as pictures:  # both new, or both as they were
        draw_pictures(layout, keys, pictures, size, radius, palette, plan_folder=folder.root, progress=progress)
        _contact_sheet(layout, pictures, palette, folder.root).save(temporary, compress_level=1)
    summary = {"pictures": len(keys), "size": size}
    folder.record("draw", settings, inputs, [folder.pictures, sheet], summary)
    return summary


def draw_pictures(
    layout: Layout,
    keys: Iterable[str],
    pictures: Path,
    size: int = 224,
    radius: float = RADIUS,
    palette: str = DEFAULT_PALETTE,
    *,
    plan_folder: Path | None = None,
    progress: bool = True,
) -> None:
    """Make the folder `pictures`: a PNG for each key, and `index.json` (key -> file)."""
    background = draw_background(layout, size, plan_folder)
    index = {key: f"{quote(key, safe='')}.png" for key in keys}
    pictures.mkdir()
    for key, name in tqdm(index.items(), desc="draw", unit="picture", disable=not progress):
        # level 1: half the time of the default for files a few kB larger
        draw_sensor(background, layout, key, radius, palette).save(pictures / name, compress_level=1)
    write_index(pictures, index)


def write_index(pictures: Path, index: Mapping[str, str]) -> None:
    """Write `index.json` of a folder of pictures: key -> file."""
    (pictures / "index.json").write_text(json.dumps(index, indent=1, ensure_ascii=False), encoding="utf-8")


def _contact_sheet(layout: Layout, pictures: Path, palette: str, plan_folder: Path) -> Image.Image:
    """Draw the plan with every sensor active and named, above the `pictures`."""
    plan = draw_background(layout, PLAN_SIDE, plan_folder)
    frame = Frame.fit(layout, PLAN_SIDE)
    dots = {sensor: frame.at(place["x"], place["y"]) for sensor, place in layout["sensors"].items()}
    for sensor, at in dots.items():
        paste_dot(plan, at, 8 / PLAN_SIDE, PALETTES[palette][layout["sensors"][sensor]["type"]][2])
    names = {room: _middle(layout, room, frame) for room in room_tints(layout)}
    return draw_contact_sheet(layout["home"], plan, dots, names, pictures)


def _middle(layout: Layout, room: str, frame: Frame) -> tuple[float, float]:
    """Return the place of a room's name in pixels: the polygon's point farthest from its walls, else amid sensors."""
    if room not in layout.get("rooms", {}):
        inside = [(place["x"], place["y"]) for place in layout["sensors"].values() if place["room"] == room]
        return frame.at(*np.mean(inside, axis=0))
    coarse = Frame.fit(layout, 160)
    mask = Image.new("L", (160, 160))
    ImageDraw.Draw(mask).polygon([coarse.at(x, y) for x, y in layout["rooms"][room]], fill=255)
    from_walls = distance_transform_cdt(np.asarray(mask), "chessboard")
    x, y = np.argwhere(from_walls == from_walls.max()).mean(axis=0)[::-1]
    return frame.at((x - coarse.left) / coarse.scale, (y - coarse.top) / coarse.scale)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `casita draw`."""
    parser.description = "Draw each sensor of a home in each of its states, and a contact sheet for the human eye."
    parser.epilog = "example: casita draw homes/milan --size 224"
    add_folder_argument(parser)
    parser.add_argument("--size", type=int, default=224, help="side of a picture in pixels (default: %(default)s)")
    parser.add_argument(
        "--radius", type=float, default=RADIUS, help="of the dot, as a share of the side (default: %(default)s)"
    )
    parser.add_argument(
        "--palette",
        default=DEFAULT_PALETTE,
        metavar="NAME",
        help="of the dots: casita, a colour for each type and state; okabe-ito, the eight colours of that palette for "
        "colour-blind readers; mono, one colour: all states of a sensor have equal pictures, and no model can "
        "distinguish ON and OFF. No later stage refuses equal pictures, unless all of a home are equal "
        "(default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Run `casita draw DIR`."""
    for folder in home_folders(args.dir):
        summary = draw_home(folder, args.size, args.radius, palette=args.palette)
        result = f"{summary['pictures']} pictures" if summary else "up to date"
        print(f"{folder.pictures}: {result}; look at {folder.root / 'contact_sheet.png'}")
