"""Captions say what the sensors saw, all of it, in order, and nothing that only the label knows."""

import re
from collections import Counter
from datetime import datetime, timedelta

import pyarrow as pa
import pytest

from casita import cli
from casita.datasets_scripts.captions import wording as words
from casita.datasets_scripts.captions.caption import STYLES, caption_home, caption_windows
from casita.datasets_scripts.layouts.layout import SHIPPED, load_layout
from casita.datasets_scripts.readers.read import read_events
from casita.datasets_scripts.schema import CAPTIONS, WINDOWS, HomeFolder, read_metadata, read_table, write_table
from casita.datasets_scripts.windows.cut import WindowSettings, build_windows

TUESDAY = datetime(2024, 1, 2, 7, 10)
ROOM_SENSOR = {"bedroom": "M012", "hallway": "M002", "kitchen": "M005", "living_room": "M009", "office": "M016"}


@pytest.fixture(scope="module")
def layout() -> dict:
    return load_layout("synthetic")


def window(keys, *, name="w0", start=TUESDAY, every_s=10.0, activity=None, split="train") -> dict:
    seconds = [every_s * i for i in range(len(keys))]
    end = start + timedelta(seconds=seconds[-1])
    row = {"window_id": name, "home": "synthetic", "session": "s", "split": split, "start": start, "end": end}
    return row | {
        "sensor_keys": keys,
        "seconds": seconds,
        "activity": activity,
        "activity_share": float(bool(activity)),
    }


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=WINDOWS)


def walk(*rooms: str) -> list[str]:
    return [f"{ROOM_SENSOR[room]}_ON" for room in rooms]


def first_captions(windows, layout, style="narrative", **how) -> list[str]:
    return [captions[0] for captions in caption_windows(windows, layout, style, **how)]


def caption_of(layout, keys, style="narrative", **how) -> str:
    return first_captions(table(window(keys, **how)), layout, style)[0]


def many_wordings(layout, keys, n=60, **how) -> list[str]:
    rows = [window(keys, name=f"w{i}", **how) for i in range(n)]
    return first_captions(table(*rows), layout)


def mentions(caption: str) -> list[str]:
    """The rooms in the order of their first mention."""
    first_mentions = {room: caption.find(words.room_name(room)) for room in ROOM_SENSOR}
    return sorted((room for room, at in first_mentions.items() if at >= 0), key=first_mentions.__getitem__)


def rooms_walked(caption: str) -> list[str]:
    """The route in a caption, read back by the grammar in which it is worded: the inverse of the compression."""
    clause = re.search(r"(from the .*|back and forth .*)", caption).group(1)
    name = {words.room_name(room): room for room in ROOM_SENSOR}
    names = "|".join(name)
    steps = re.findall(rf"(from|back and forth between|to) ({names})(?: and (back|{names}))?", clause)
    route: list[str] = []
    for kind, first, second in steps:
        if kind == "back and forth between":
            # How often is not said: twice each at least, and one more when the next step needs it.
            begun = bool(route) and route[-1] == name[first]
            route += [name[first], name[second], name[first], name[second]][begun:]
        elif second == "back":
            route += [name[first], route[-1]]
        else:
            route.append(name[first])
    return route


@pytest.mark.parametrize(
    "rooms",
    [
        ("kitchen", "hallway"),
        ("kitchen", "hallway", "kitchen"),
        ("kitchen", "hallway", "kitchen", "hallway"),
        ("bedroom", "hallway", "kitchen", "living_room", "hallway", "office"),
        ("bedroom", "hallway", "bedroom", "office", "hallway", "kitchen"),
        ("office", "hallway", "kitchen", "hallway", "kitchen", "living_room", "kitchen", "bedroom"),
    ],
)
@pytest.mark.parametrize("style", ["narrative", "structured"])
def test_the_whole_way_can_be_read_back_from_a_caption(layout, rooms, style):
    assert rooms_walked(caption_of(layout, walk(*rooms), style)) == list(rooms)


def test_every_wording_names_all_rooms_in_order(layout):
    rooms = ["bedroom", "hallway", "kitchen", "living_room", "office"]
    captions = many_wordings(layout, walk(*rooms))
    assert len(set(captions)) > 30
    for caption in captions:
        assert mentions(caption) == rooms, caption


@pytest.mark.parametrize("style", STYLES)
def test_the_label_and_the_split_change_nothing(layout, style):
    keys = ["M005_ON", "D002_OPEN", "D002_CLOSE", "M004_ON"]
    plain = [window(keys, name=f"w{i}") for i in range(20)]
    labelled = [row | {"activity": "Cook", "activity_share": 1.0, "split": "test"} for row in plain]
    caption_lists = caption_windows(table(*plain), layout, style, captions=3)
    assert caption_lists == caption_windows(table(*labelled), layout, style, captions=3)
    assert not any("cook" in caption.lower() for captions in caption_lists for caption in captions)


def test_a_caption_depends_on_its_own_window_alone(layout):
    rows = [window(walk("kitchen", "hallway") + ["D001_OPEN"] * (i % 3 + 1), name=f"w{i}") for i in range(50)]
    for style in STYLES:
        captions = caption_windows(table(*rows), layout, style, captions=3)
        assert caption_windows(table(*rows[::-1]), layout, style, captions=3) == captions[::-1]
        assert [caption_windows(table(row), layout, style, captions=3)[0] for row in rows] == captions


def test_another_seed_words_it_otherwise(layout):
    rows = [window(walk("kitchen", "hallway"), name=f"w{i}") for i in range(30)]
    captions, other = (caption_windows(table(*rows), layout, seed=seed) for seed in (0, 1))
    assert sum(a != b for a, b in zip(captions, other, strict=True)) > 20


@pytest.mark.parametrize(
    "keys, phrase",
    [
        (["D002_OPEN"], "the fridge was opened"),
        (["D002_CLOSE"], "the fridge was closed"),
        (["D002_OPEN", "D002_CLOSE"], "the fridge was opened and closed"),
        (["D002_CLOSE", "D002_OPEN"], "the fridge was closed and opened"),
        (["D002_OPEN", "D002_CLOSE"] * 3, "the fridge was repeatedly opened and closed"),
        (["D002_OPEN", "D003_OPEN"], "the fridge and the medicine cabinet were opened"),
        (["I001_ABSENT"], "the pill box was taken"),
        (["I001_ABSENT", "I001_PRESENT"], "the pill box was taken and put back"),
        (["B001_ON"], "the bed was pressed"),
        (["B001_OFF"], "the bed was released"),
        (["W001_ON", "W001_OFF"], "the kitchen tap was turned on and off"),
        (["S001_ON"], "the stove was switched on"),
        (["F001_ON", "F001_OFF"], "the toilet flush was used"),
        (["M005_ON", "T001_HIGH"], "the temperature in the kitchen was high"),
    ],
)
def test_states_decide_what_is_said_of_a_thing(layout, keys, phrase):
    for caption in many_wordings(layout, keys, n=8):
        assert phrase in caption.lower(), caption
        rest = caption.lower().replace(phrase, "")
        assert not re.search(r"opened|closed|taken|put back|pressed|released|turned|switched|movement", rest), caption


def test_a_special_place_is_named_only_where_motion_began_there(layout):
    assert all("at the stove" in caption for caption in many_wordings(layout, ["M004_ON", "M005_ON"]))
    assert not any("stove" in caption for caption in many_wordings(layout, ["M004_OFF", "M005_ON"]))


def test_where_motion_only_ends_somebody_was(layout):
    assert "in the kitchen" in caption_of(layout, ["M005_OFF", "T002_NORMAL"])
    assert "hallway" not in caption_of(layout, ["M002_OFF", "M005_ON"])  # left before: only a fading trace


def test_thermometers_alone_are_no_person(layout):
    for caption in many_wordings(layout, ["T001_NORMAL", "T002_HIGH"]):
        assert "nobody was noticed" in caption.lower()
        assert "bedroom was high" in caption


def test_a_long_silence_is_named(layout):
    keys = walk("kitchen", "hallway")
    assert all("20 minutes in between" in caption for caption in many_wordings(layout, keys, every_s=1200))
    assert not any("in between" in caption for caption in many_wordings(layout, keys, every_s=200))


def test_structured_is_four_sentences_when_how_long_where_which(layout):
    caption = caption_of(layout, ["M005_ON", "M005_OFF", "D002_OPEN", "M002_ON"], "structured", every_s=60)
    assert caption == (
        "This happened on Tuesday morning, from 07:10 to 07:13. It took about three minutes. "
        "The way led from the kitchen to the hallway. "
        "The sensors reported motion in the kitchen (twice), the fridge (once) and motion in the hallway (once)."
    )


@pytest.mark.parametrize("home", SHIPPED)
@pytest.mark.parametrize("style", STYLES)
def test_captions_of_every_shipped_home_are_grammatical(home, style):
    layout = load_layout(home)
    keys = [f"{sensor}_{'OPEN' if entry['type'] == 'door' else 'ON'}" for sensor, entry in layout["sensors"].items()]
    rows = [window(keys[i : i + 5], name=f"w{i}", start=TUESDAY + timedelta(hours=i)) for i in range(len(keys))]
    for caption in first_captions(table(*rows), layout, style):
        assert caption[0].isupper(), caption
        assert caption.endswith("."), caption
        assert "_" not in caption, caption
        assert not re.search(r"\b(\w+) \1\b|  |\.\.|,,| ,| \.|; ;|\bNone\b|\b(in|at|on) (in|at|on|near)\b", caption), (
            caption
        )
        assert not re.search(r"\b(a|the) (a|an|the)\b|\b(monday|tuesday|wednesday)\b", caption), caption
        assert all(sentence[0].isupper() for sentence in caption.split(". ")), caption


@pytest.mark.parametrize(
    "room, name",
    [
        ("master_bedroom", "in the master bedroom"),
        ("bedroom_2", "in bedroom 2"),
        ("aisle_near_laundry", "in the aisle near the laundry"),
        ("stairs", "on the stairs"),
        ("garage_door", "at the garage door"),
        ("living", "in the living room"),
        ("hallway_downstairs", "in the hallway downstairs"),
    ],
)
def test_rooms_are_named_as_people_name_them(room, name):
    assert words.in_room(room) == name


@pytest.mark.parametrize(
    "description, phrase",
    [
        ("armchair", "at the armchair"),
        ("near closet", "near the closet"),
        ("bed in master bedroom", "at the bed in the master bedroom"),
        ("near the nightstand close to the entrance", "near the nightstand close to the entrance"),
        ("stairs toward basement", "at the stairs toward the basement"),
    ],
)
def test_descriptions_of_places_become_phrases(description, phrase):
    sensor = {"type": "motion", "room": "somewhere_else", "description": description}
    assert words.place_phrase(sensor) == phrase


@pytest.mark.parametrize(
    "seconds, phrase",
    {
        0: "a few seconds",
        30: "about half a minute",
        70: "about a minute",
        610: "about ten minutes",
        1500: "about 25 minutes",
        3590: "about an hour",
        5400: "about an hour and a half",
        7200: "about two hours",
        9000: "about two and a half hours",
        90000: "about 25 hours",
    }.items(),
)
def test_durations_are_worded_as_people_say_them(seconds, phrase):
    assert words.duration(seconds) == phrase


def test_every_minute_of_the_week_has_a_time_in_words():
    for minute in range(7 * 24 * 60):
        day, hour, rest = minute // 1440, minute // 60 % 24, minute % 60
        phrase = f"{words.clock(hour, rest)} {words.part_of_day(day, hour)}"
        assert re.fullmatch(r"(a little after|around half past|shortly before) [a-z]+ (on|in) .*day.*", phrase), phrase
        assert "zero" not in phrase
    assert words.clock(23, 50) == "shortly before midnight"
    assert words.clock(12, 30) == "around half past twelve"


def test_a_sensor_that_the_layout_lacks_is_named(layout):
    with pytest.raises(ValueError, match=r"sensor 'M099' \(key 'M099_ON'\) is not in the layout of 'synthetic'"):
        caption_of(layout, ["M005_ON", "M099_ON"])


def test_an_unknown_style_is_refused(layout):
    with pytest.raises(ValueError, match="'poem': there are narrative, structured, brief, mixed"):
        caption_of(layout, ["M005_ON"], "poem")


@pytest.fixture
def home(tmp_path, layout) -> HomeFolder:
    folder = HomeFolder(tmp_path / "home")
    folder.describe(home="synthetic", layout=layout)
    rows = [window(walk("kitchen", "hallway", "office"), name=f"w{i}") for i in range(12)]
    write_table(folder.windows, table(*rows), WINDOWS)
    return folder


def test_a_home_is_captioned_once(home):
    summary = caption_home(home)
    assert summary["captions"] == 12
    assert caption_home(home) is None
    assert caption_home(home, seed=1) is not None
    written = read_table(home.captions("narrative"), CAPTIONS)
    assert written["window_id"].to_pylist() == [f"w{i}" for i in range(12)]
    assert written["caption"].to_pylist() == first_captions(read_table(home.windows, WINDOWS), home.layout, seed=1)
    assert read_metadata(home.captions("narrative"))["seed"] == 1


# Several captions a window, and the short and mixed styles


@pytest.mark.parametrize("style", ["narrative", "brief", "mixed"])
def test_captions_of_a_real_home_are_distinct_within_each_window(real_homes, style):
    kyoto = sorted((real_homes / "kyoto").glob("P0*.txt"))[:9]
    for name, logs, types in (("ordonez_a", [real_homes / "ordonez_a"], None), ("kyoto", kyoto, ("motion", "item"))):
        layout = load_layout(name)
        events, _ = read_events(logs, name)
        windows, _ = build_windows(events, layout, WindowSettings(unplaced="drop", types=types, max_gap_min=None))
        caption_lists = caption_windows(windows, layout, style, captions=4)
        assert len(caption_lists) == len(windows) > 50
        assert all(len(captions) == len(set(captions)) == 4 for captions in caption_lists)


def test_the_kth_caption_is_the_same_however_many_are_asked_for(layout):
    rows = table(*(window(walk("kitchen", "hallway"), name=f"w{i}") for i in range(20)))
    for style in STYLES:
        six = caption_windows(rows, layout, style, captions=6)
        for count in (1, 2, 5):
            assert caption_windows(rows, layout, style, captions=count) == [captions[:count] for captions in six]


def test_where_there_is_no_other_wording_there_are_fewer(layout, home, capsys):
    rows = table(*(window(walk("kitchen"), name=f"w{i}") for i in range(5)))
    assert [len(captions) for captions in caption_windows(rows, layout, "structured", captions=4)] == [1] * 5
    assert cli.main(["caption", str(home.root), "--caption-style", "structured", "--captions", "2"]) == 0
    assert "12 windows have fewer, since there is no other wording" in capsys.readouterr().out
    assert read_table(home.captions("structured"), CAPTIONS).num_rows == 12


def test_mixed_words_a_window_in_all_styles_and_windows_begin_with_each(layout):
    rows = table(*(window(walk("kitchen", "hallway", "office"), name=f"w{i}") for i in range(90)))

    def style_of(caption: str) -> str:
        return "structured" if caption.startswith("This happened") else "brief" if len(caption) < 70 else "narrative"

    style_lists = [
        [style_of(caption) for caption in captions] for captions in caption_windows(rows, layout, "mixed", captions=3)
    ]
    assert all(set(styles) == {"narrative", "structured", "brief"} for styles in style_lists)
    firsts = Counter(styles[0] for styles in style_lists)
    assert min(firsts.values()) > 15  # 30 each on average


def test_brief_is_one_short_sentence_of_place_and_time_of_day(layout):
    rooms = ["kitchen", "hallway", "kitchen", "office", "kitchen", "hallway"]
    rows = table(*(window(walk(*rooms), name=f"w{i}") for i in range(40)))
    for caption in first_captions(rows, layout, "brief"):
        assert "in the kitchen and in the hallway" in caption.lower()
        assert "in the morning" in caption.lower()
        assert "office" not in caption  # the two that were entered most often
        assert len(caption.split()) <= 16
        assert caption.count(".") == 1


def test_places_names_parts_of_rooms_most_movement_first_the_routes_ends_and_actions(layout):
    layout = {
        "home": "two rooms",
        "size": [100, 100],
        "sensors": {
            "M1": {"x": 10, "y": 10, "room": "kitchen", "type": "motion"},
            "M2": {"x": 40, "y": 10, "room": "kitchen", "type": "motion"},
            "M3": {"x": 25, "y": 90, "room": "kitchen", "type": "motion"},
            "M4": {"x": 80, "y": 50, "room": "hall", "type": "motion"},
            "M5": {"x": 90, "y": 90, "room": "kitchen", "type": "motion_area", "description": "at sink"},
            "D1": {"x": 80, "y": 90, "room": "hall", "type": "door", "description": "front door"},
        },
    }
    assert words.parts_of_rooms(layout) == {
        "M1": "upper left", "M2": "upper", "M3": "lower left", "M4": "", "M5": "at the sink"
    }  # fmt: skip
    keys = ["M4_ON", "D1_OPEN", "M3_ON", "M3_OFF", "M2_ON", "M3_ON", "M5_ON", "M4_OFF"]
    assert caption_of(layout, keys, "places") == (
        "Movement in the kitchen (lower left twice, upper once, at the sink once) and in the hall (once), "
        "from the hall to the kitchen, within about a minute. The front door was opened."
    )
    assert caption_of(layout, ["D1_CLOSE"], "places").startswith(
        "No movement, within a few seconds. The front door was cl"
    )


def test_captions_of_a_window_are_neighbouring_rows_in_their_order(home):
    caption_home(home, captions=3)
    written = read_table(home.captions("narrative"), CAPTIONS)
    assert written["window_id"].to_pylist() == [f"w{i // 3}" for i in range(36)]
    caption_lists = caption_windows(read_table(home.windows, WINDOWS), home.layout, captions=3)
    assert written["caption"].to_pylist() == [caption for captions in caption_lists for caption in captions]
    assert caption_home(home, captions=3) is None
    assert caption_home(home, captions=2) is not None


def test_no_caption_at_all_is_refused(home):
    with pytest.raises(ValueError, match="captions=0: give at least 1"):
        caption_home(home, captions=0)


def test_a_data_set_of_homes_is_captioned_home_by_home(home, layout, capsys):
    other = HomeFolder(home.root.parent / "other")
    other.describe(home="other", layout=layout | {"home": "other"})
    write_table(other.windows, table(window(["T001_HIGH"], name="x")), WINDOWS)
    assert cli.main(["caption", str(home.root.parent), "--captions", "2", "--report"]) == 0
    assert capsys.readouterr().out.count("captions of") == 2
    assert read_table(other.captions("narrative"), CAPTIONS)["window_id"].to_pylist() == ["x", "x"]
    assert (other.root / "captions" / "narrative.report.json").is_file()


def test_the_command_writes_the_file_and_says_so(home, capsys):
    assert cli.main(["caption", str(home.root), "--caption-style", "structured"]) == 0
    assert "12 windows" in capsys.readouterr().out
    assert read_table(home.captions("structured"), CAPTIONS).num_rows == 12


def test_without_windows_the_command_names_the_stage_before(tmp_path, layout, capsys):
    HomeFolder(tmp_path).describe(home="synthetic", layout=layout)
    assert cli.main(["caption", str(tmp_path)]) == 2
    assert f"casita windows {tmp_path}" in capsys.readouterr().err
