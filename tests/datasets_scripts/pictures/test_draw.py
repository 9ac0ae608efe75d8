"""Pictures: what is on them and what is not."""

import copy
import datetime
import json
import time

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from casita.cli import main
from casita.datasets_scripts.layouts.layout import load_layout
from casita.datasets_scripts.pictures.draw import (
    Frame,
    draw_background,
    draw_home,
    draw_sensor,
    picture_keys,
    seen_keys,
)
from casita.datasets_scripts.pictures.palettes import PALETTE, PALETTES, colour_of
from casita.datasets_scripts.schema import EVENTS, HomeFolder, write_table

FLAT = {
    "home": "flat",
    "size": [400, 200],
    "sensors": {
        "M001": {"x": 50, "y": 60, "room": "kitchen", "type": "motion"},
        "D001": {"x": 400, "y": 0, "room": "hall", "type": "door"},
        "T001": {"x": 300, "y": 150, "room": "hall", "type": "temperature"},
        "a/b 1": {"x": 100, "y": 150, "room": "kitchen", "type": "item"},
    },
}
ROOMS = {"kitchen": [[0, 0], [200, 0], [200, 200], [0, 200]], "hall": [[200, 0], [400, 0], [400, 200], [200, 200]]}


@pytest.fixture
def flat() -> dict:
    return copy.deepcopy(FLAT)


def make_home(folder, layout: dict, rows: list[tuple[str, str, float | None]]) -> HomeFolder:
    home = HomeFolder(folder)
    home.describe(home=layout["home"], layout=layout)
    common = {"home": "flat", "session": "s", "timestamp": datetime.datetime(2020, 1, 1), "activities": []}
    events = [{**common, "sensor": sensor, "state": state, "value": value} for sensor, state, value in rows]
    write_table(home.events, pa.Table.from_pylist(events, schema=EVENTS), EVENTS)
    return home


EVENTS_SEEN = [("M001", "ON", None), ("T001", "21.5", 21.5), ("T001", "22", 22.0), ("X999", "ON", None)]


@pytest.mark.parametrize("size", [64, 224, 518])
@pytest.mark.parametrize("rooms", [None, ROOMS])
def test_the_dot_has_the_palettes_colour_and_the_rest_is_the_background(flat, size, rooms):
    if rooms:
        flat["rooms"] = rooms
    background = np.asarray(draw_background(flat, size))
    picture = np.asarray(draw_sensor(Image.fromarray(background), flat, "M001_ON"))
    x, y = Frame.fit(flat, size).at(50, 60)
    assert tuple(picture[round(y), round(x)]) == PALETTE["motion"][2]
    rows, columns = np.mgrid[:size, :size]
    distance = np.hypot(columns + 0.5 - x, rows + 0.5 - y)
    assert np.array_equal(picture[distance > 0.04 * size + 1.5], background[distance > 0.04 * size + 1.5])
    assert (picture != background).any(axis=-1)[distance < 0.04 * size - 1.5].all()


def test_moving_the_sensor_moves_the_dot_by_as_much_and_to_a_fraction_of_a_pixel(flat):
    del flat["sensors"]["D001"], flat["sensors"]["T001"], flat["sensors"]["a/b 1"]  # one room: a plain background
    scale = Frame.fit(flat, 224).scale

    def centre(x: float) -> float:
        flat["sensors"]["M001"]["x"] = x
        blank = draw_background(flat, 224)
        gone = np.abs(np.asarray(blank, float) - np.asarray(draw_sensor(blank, flat, "M001_ON"), float)).sum(axis=-1)
        return float((gone.sum(axis=0) * np.arange(224)).sum() / gone.sum())

    # 1/8 px: the grid on which dots are drawn
    assert centre(201) - centre(200) == pytest.approx(scale, abs=0.13)
    assert centre(260) - centre(200) == pytest.approx(60 * scale, abs=0.13)


def test_the_plans_aspect_is_kept_and_the_rest_is_white(flat):
    picture = np.asarray(draw_background(flat, 224).convert("L"))
    filled = np.argwhere(picture < 250)
    (top, left), (bottom, right) = filled.min(axis=0), filled.max(axis=0)
    assert (right - left) / (bottom - top) == pytest.approx(2, rel=0.03)  # a wall's thickness
    assert top - 0 == pytest.approx(223 - bottom, abs=1)


def test_without_polygons_a_place_has_the_tint_of_its_nearest_sensors_room(flat):
    nearest, drawn = draw_background(flat, 224), draw_background({**flat, "rooms": ROOMS}, 224)
    frame = Frame.fit(flat, 224)
    for x, y in [(40, 100), (120, 190), (290, 120), (390, 60)]:
        at = tuple(round(v) for v in frame.at(x, y))
        assert nearest.getpixel(at) == drawn.getpixel(at) != (255, 255, 255)


def test_a_floor_plan_picture_is_the_background(flat, tmp_path):
    plan = Image.new("RGBA", (800, 400), (10, 200, 30, 255))
    plan.paste((0, 0, 0, 0), (400, 0, 800, 400))  # transparent: shows the white paper
    plan.save(tmp_path / "plan.png")
    flat["floor_plan"] = "plan.png"
    picture = draw_background(flat, 224, tmp_path)
    frame = Frame.fit(flat, 224)
    assert picture.getpixel(tuple(round(v) for v in frame.at(100, 100))) == (10, 200, 30)
    assert picture.getpixel(tuple(round(v) for v in frame.at(300, 100))) == (255, 255, 255)
    flat["size"] = [400, 300]
    with pytest.raises(ValueError, match="another shape"):
        draw_background(flat, 224, tmp_path)


def lightness(colour: tuple[int, int, int]) -> float:
    """CIE L* of an sRGB colour, 0..100."""
    linear = [v / 3294.6 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


def test_active_and_inactive_differ_in_lightness_so_that_a_colour_blind_reader_sees_it():
    for sensor_type, (inactive, _, active) in PALETTE.items():
        if sensor_type != "temperature":  # whose ends are blue and red, which every reader can distinguish
            assert abs(lightness(active) - lightness(inactive)) > 25, sensor_type


def test_every_type_and_state_has_a_colour_of_its_own():
    colours = [colour_of(t, s) for t in PALETTE for s in ("LOW", "NORMAL", "HIGH", "START-INSTRUCT", "STOP-INSTRUCT")]
    assert len(set(colours)) == len(colours)


@pytest.mark.parametrize("palette", PALETTES)
def test_a_palette_changes_the_dots_colour_and_nothing_else(flat, palette):
    background = draw_background(flat, 224)
    for key in picture_keys(flat, ["M001_STUCK"]):
        sensor, _, state = key.rpartition("_")
        usual, picture = (np.asarray(draw_sensor(background, flat, key, palette=p)) for p in ("casita", palette))
        place = flat["sensors"][sensor]
        x, y = (round(v) for v in Frame.fit(flat, 224).at(place["x"], place["y"]))
        assert tuple(picture[y, x]) == colour_of(place["type"], state, palette)
        drawn = [(pixels != np.asarray(background)).any(axis=-1) for pixels in (usual, picture)]
        assert np.array_equal(*drawn)
        assert (picture != usual).any() == (
            colour_of(place["type"], state, palette) != colour_of(place["type"], state)
        )


def test_in_mono_only_the_place_makes_a_difference(flat):
    background = draw_background(flat, 64)
    keys = picture_keys(flat, ["M001_STUCK", "M001_ON"])
    pictures = {key: draw_sensor(background, flat, key, palette="mono").tobytes() for key in keys}
    sensors = {key: key.rpartition("_")[0] for key in keys}
    assert len(set(pictures.values())) == len(set(sensors.values())) == 4
    assert len({(sensors[key], pictures[key]) for key in keys}) == 4
    assert len({colour_of(t, s, "mono") for t in PALETTE for s in ("OFF", "HIGH", "STUCK")}) == 1


def test_okabe_ito_has_eight_colours_and_a_sensors_states_differ_in_lightness():
    eight = {colour for colours in PALETTES["okabe-ito"].values() for colour in colours}
    assert len(eight) == 8
    for sensor_type, (inactive, normal, active) in PALETTES["okabe-ito"].items():
        assert len({inactive, normal, active}) == 3, sensor_type
        if sensor_type != "temperature":  # blue, yellow, vermilion: as far apart in hue as these eight go
            assert abs(lightness(active) - lightness(inactive)) > 25, sensor_type
        for state in ("START-INSTRUCT", "STUCK"):
            assert colour_of(sensor_type, state, "okabe-ito") in eight - {inactive, normal, active}
    assert colour_of("item", "START-INSTRUCT", "okabe-ito") != colour_of("item", "STOP-INSTRUCT", "okabe-ito")


def test_states_are_completed_and_unseen_sensors_get_those_of_their_type(flat):
    assert picture_keys(flat, ["M001_OFF", "M001_STUCK", "D001_ON", "X999_ON"]) == [
        "D001_OFF",
        "D001_ON",
        "M001_OFF",
        "M001_ON",
        "M001_STUCK",
        "T001_HIGH",
        "T001_LOW",
        "T001_NORMAL",
        "a/b 1_ABSENT",
        "a/b 1_PRESENT",
    ]


def test_a_numeric_sensor_is_seen_in_levels_and_a_stray_number_makes_none(tmp_path, flat):
    stray = [("M001", "ON", None), ("M001", "OFF", None), ("M001", "3", 3.0), ("T001", "ERROR", None)]
    home = make_home(tmp_path, flat, [*EVENTS_SEEN, *stray])
    levels = ["T001_HIGH", "T001_LOW", "T001_NORMAL"]
    assert seen_keys(home.events) == sorted(["M001_3", "M001_OFF", "M001_ON", "T001_ERROR", "X999_ON", *levels])


def test_a_home_is_drawn_whole_and_only_when_something_changed(tmp_path, flat):
    home = make_home(tmp_path / "home", flat, EVENTS_SEEN)
    assert draw_home(home, progress=False) == {"pictures": 9, "size": 224}
    index = json.loads((home.pictures / "index.json").read_text())
    assert list(index) == picture_keys(flat, ["M001_ON", "T001_LOW"])
    assert {path.name for path in home.pictures.iterdir()} == {*index.values(), "index.json"}
    assert index["a/b 1_ABSENT"] == "a%2Fb%201_ABSENT.png"
    background = draw_background(flat, 224)
    for key, name in index.items():
        with Image.open(home.pictures / name) as picture:
            assert np.array_equal(np.asarray(picture), np.asarray(draw_sensor(background, flat, key)))
    with Image.open(home.root / "contact_sheet.png") as sheet:
        assert sheet.width == 1800
    assert draw_home(home, progress=False) is None
    assert draw_home(home, size=64, progress=False) == {"pictures": 9, "size": 64}
    assert draw_home(home, size=64, progress=False, palette="mono") == {"pictures": 9, "size": 64}
    assert draw_home(home, size=64, progress=False, palette="mono") is None
    assert draw_home(home, size=64, progress=False) == {"pictures": 9, "size": 64}
    flat["sensors"]["M001"]["x"] += 1
    home.describe(layout=flat)
    assert draw_home(home, size=64, progress=False) is not None


@pytest.mark.parametrize("palette", ["casita", "okabe-ito"])
def test_no_two_pictures_of_a_shipped_home_are_alike(palette):
    layout = load_layout("kyoto")
    background = draw_background(layout, 224)
    keys = picture_keys(layout, [])
    pictures = {draw_sensor(background, layout, key, palette=palette).tobytes() for key in keys}
    assert len(pictures) == len(keys) > 200


def test_a_key_without_a_position_and_an_impossible_size_are_refused(tmp_path, flat, capsys):
    with pytest.raises(ValueError, match="'M077' has no position"):
        draw_sensor(draw_background(flat, 64), flat, "M077_ON")
    make_home(tmp_path, flat, EVENTS_SEEN)
    assert main(["draw", str(tmp_path), "--size", "4"]) == 2
    assert "16 <= size" in capsys.readouterr().err
    assert main(["draw", str(tmp_path), "--palette", "sepia"]) == 2
    message = capsys.readouterr().err
    assert message == "casita draw: error: palette='sepia' is unknown; known: casita, mono, okabe-ito.\n"
    assert not (tmp_path / "pictures").exists()


def test_pictures_come_fast_enough(tmp_path):
    layout = load_layout("milan")
    background = draw_background(layout, 224)
    keys = picture_keys(layout, [])
    start = time.process_time()
    for key in keys:
        draw_sensor(background, layout, key).save(tmp_path / f"{key}.png", compress_level=1)
    # 300/s is the aim and 870/s was measured; CPU time, and a third of the aim, for a slow machine
    assert len(keys) / (time.process_time() - start) > 100
