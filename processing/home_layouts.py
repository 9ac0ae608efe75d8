"""Facts of a home for a processor: coordinates and room of each sensor, and the levels of numeric ones."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .sensor_vocabulary import SensorVocabulary

LARGEST_LAYOUT = 10_000_000  # bytes; thousands of sensors take a few hundred thousand


def home_facts(vocabulary: SensorVocabulary, layout: Any, levels: Any) -> dict[str, dict[str, Any]]:
    """Collect `coordinates` (sensor -> [x, y] in [0, 1]), `rooms` and `levels` of the homes in `vocabulary`.

    Args:
        layout: a layout or its JSON file, or None; for several homes a mapping from home to that.
        levels: numeric sensor -> (low, high), or None; for several homes a mapping from home to that.

    Raises:
        FileNotFoundError, ValueError: no such file, no layout, or one that does not fit the vocabulary's sensors.
    """
    facts: dict[str, dict[str, Any]] = {"coordinates": {}, "rooms": {}, "levels": {}}
    layouts = _by_home("layout", layout, vocabulary.homes)
    bounds = _by_home("levels", levels, vocabulary.homes)
    homes: list[str | None] = [*vocabulary.homes] or [None]
    for home in homes:
        prefix = vocabulary.prefix(home)
        sensors = list(vocabulary.sensors(prefix))
        if layouts.get(home) is not None:
            coordinates, rooms = _places(load_home_layout(layouts[home]), sensors, prefix)
            facts["coordinates"] |= coordinates
            facts["rooms"] |= rooms
        facts["levels"] |= _levels(bounds.get(home) or {}, sensors, prefix)
    return facts


def load_home_layout(layout: Mapping[str, Any] | str | os.PathLike) -> Mapping[str, Any]:
    """Return the layout, read if it is a JSON file: it has `size` and `sensors`, and each of these x, y and room."""
    where = "the layout"
    if isinstance(layout, (str, os.PathLike)):
        where = str(layout)
        if not Path(layout).is_file():
            raise FileNotFoundError(f"{where}: no such layout file. Give the path of a JSON file, or a dict.")
        if (size := Path(layout).stat().st_size) > LARGEST_LAYOUT:
            raise ValueError(f"{where}: {size:,} bytes, expected at most {LARGEST_LAYOUT:,}. Is this the right file?")
        try:
            layout = json.loads(Path(layout).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: expected JSON, found something else ({error}).") from None
    if not isinstance(layout, Mapping) or not {"size", "sensors"} <= layout.keys():
        raise ValueError(f'{where}: a layout is {{"size": [w, h], "sensors": {{id: {{x, y, room, type}}}}}}.')
    for name, sensor in layout["sensors"].items():
        if missing := sorted({"x", "y", "room"} - set(sensor)):
            raise ValueError(f"{where}: sensor {name!r} lacks {', '.join(missing)}.")
    return layout


def _by_home(name: str, given: Any, homes: Sequence[str]) -> Mapping[str | None, Any]:
    """Return what was given for each home; a single home has the name None."""
    if not homes:
        return {None: given}
    if given is not None and (not isinstance(given, Mapping) or not set(given) <= set(homes)):
        problem = (
            f"names {', '.join(map(str, given))}" if isinstance(given, Mapping) else f"is a {type(given).__name__}"
        )
        raise ValueError(f"the table holds the homes {', '.join(homes)}; {name} {problem}. Map each home to its own.")
    return given or {}


def _places(layout: Mapping[str, Any], sensors: Sequence[str], prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return coordinates and rooms of the table's `sensors`, all of which the layout must place."""
    width, height = layout["size"]
    places = {f"{prefix}{name}": sensor for name, sensor in layout["sensors"].items()}
    if lost := [sensor for sensor in sensors if sensor not in places]:
        raise ValueError(
            f"the layout of home {layout.get('home')!r} does not place {len(lost)} of the table's sensors "
            f"({', '.join(lost[:5])}). Give the layout that the pictures were drawn from."
        )
    coordinates = {name: [sensor["x"] / width, sensor["y"] / height] for name, sensor in places.items()}
    return coordinates, {name: sensor["room"] for name, sensor in places.items()}


def _levels(levels: Mapping[str, Any], sensors: Sequence[str], prefix: str) -> dict[str, list[float]]:
    for sensor, bounds in levels.items():
        if f"{prefix}{sensor}" not in sensors or len(bounds) != 2 or not bounds[0] <= bounds[1]:
            raise ValueError(
                f"levels[{sensor!r}] = {bounds!r}: expected a sensor of the table and its bounds (low, high)."
            )
    return {f"{prefix}{sensor}": [float(low), float(high)] for sensor, (low, high) in levels.items()}
