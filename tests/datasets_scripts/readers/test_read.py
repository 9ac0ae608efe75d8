"""Reading CASAS text and the command `casita read`: every dialect as a literal, and a slow reader as the judge."""

import gzip
import json
import random
from datetime import datetime, timedelta

import numpy as np
import pyarrow.parquet as pq
import pytest

from casita.cli import main
from casita.datasets_scripts.benchmarks import stages as benchmark
from casita.datasets_scripts.readers import casas
from casita.datasets_scripts.readers.events_table import UNCLOSED
from casita.datasets_scripts.readers.read import read_events, read_home, run_summary
from casita.datasets_scripts.schema import EVENTS, HomeFolder, read_table
from casita.processing.sensor_states import normalize_state, state_value


@pytest.fixture
def read(tmp_path):
    """Write one log and read it: `read(text) -> (rows as dicts, summary)`."""

    def read_text(text, name="log.txt", columns=None):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        table, summary = read_events([path], "home", columns)
        assert table.schema == EVENTS
        return table.to_pylist(), summary

    return read_text


def keys(rows):
    return [f"{row['sensor']}_{row['state']}" for row in rows]


PLAIN = "2009-10-16 00:01:04.000059\tM017\tON\n2009-10-16 00:01:06.5\tM009\tOFF\n2009-10-16 00:02:00\tT001\t21.5\n"
SAME = {
    "blanks": PLAIN.replace("\t", "   "),
    "date and time in two fields": PLAIN.replace("16 ", "16\t"),
    "ISO time in one token": PLAIN.replace("16 ", "16T"),
    "byte-order mark": "\ufeff" + PLAIN,
    "carriage returns": PLAIN.replace("\n", "\r\n"),
    "gzip": gzip.compress(PLAIN.encode(), mtime=0),
    "no last line feed": PLAIN.rstrip("\n"),
    "empty fields": PLAIN.replace("\t", "\t\t").replace("\n", "\t\n"),
    "slashes in the date": PLAIN.replace("2009-10-16", "2009/10/16"),
    "more digits than microseconds": PLAIN.replace("000059", "000059999"),
    "room": PLAIN.replace("\tO", "\tKitchen\tO").replace("\t21", "\tHall\t21"),
    "room and area": PLAIN.replace("\tO", "\tKitchen\tSink\tO").replace("\t21", "\tHall\tHall\t21"),
    "the maker's type": PLAIN.replace("\n", "\tControl4-Motion\n"),
}


@pytest.mark.parametrize("dialect", SAME)
def test_all_dialects_of_a_log_read_the_same(read, dialect):
    expected, _ = read(PLAIN)
    rows, summary = read(SAME[dialect])
    assert rows == expected
    assert [row["timestamp"] for row in rows] == [
        datetime(2009, 10, 16, 0, 1, 4, 59),
        datetime(2009, 10, 16, 0, 1, 6, 500000),
        datetime(2009, 10, 16, 0, 2),
    ]
    assert [row["value"] for row in rows] == [None, None, 21.5]
    assert keys(rows) == ["M017_ON", "M009_OFF", "T001_21.5"]
    assert (summary.lines, summary.events, summary.malformed) == (3, 3, 0)


def test_begin_and_end_rows_belong_to_the_activity_and_several_can_be_open(read):
    lines = ["Sleep begin", "", "Read begin", "Sleep end", "", "Read end", ""]
    rows, summary = read("".join(f"2009-10-16 00:00:0{i} M1 ON {mark}\n" for i, mark in enumerate(lines)))
    assert [row["activity"] for row in rows] == ["Sleep", "Sleep", "Read", "Read", "Read", "Read", None]
    assert [row["activities"] for row in rows] == [
        ["Sleep"],
        ["Sleep"],
        ["Sleep", "Read"],
        ["Sleep", "Read"],
        ["Read"],
        ["Read"],
        [],
    ]
    assert (summary.intervals, summary.activities, summary.labelled_share) == (2, 2, round(6 / 7, 6))


def test_an_earlier_activity_goes_on_once_the_later_one_ends(read):
    marks = ["Sleep begin", "Toilet begin", "Toilet end", "", "Sleep end"]
    rows, _ = read("".join(f"2009-10-16 00:00:0{i} M1 ON {mark}\n" for i, mark in enumerate(marks)))
    assert [row["activity"] for row in rows] == ["Sleep", "Toilet", "Toilet", "Sleep", "Sleep"]


@pytest.mark.parametrize("form", ["{} {}", '{}="{}"', "{}={}", "{}\t{}"])
def test_marks_are_known_in_all_their_spellings_and_labels_may_hold_blanks(read, form):
    begin, end = form.format("R1 work in office", "begin"), form.format("R1 work in office", "end")
    rows, _ = read(f"2009-10-16 00:00:01 M1 ON {begin}\n2009-10-16 00:00:02 M1 OFF {end}\n2009-10-16 00:00:03 M1 ON\n")
    assert [row["activity"] for row in rows] == ["R1 work in office", "R1 work in office", None]


def test_two_marks_on_one_line_both_count(read):
    rows, summary = read(
        "2009-10-16 00:00:01 M1 ON Cook begin\n2009-10-16 00:00:02 M1 ON Cook end Eat begin\n"
        "2009-10-16 00:00:03 M1 ON\n2009-10-16 00:00:04 M1 ON Eat end\n"
    )
    assert [row["activities"] for row in rows] == [["Cook"], ["Cook", "Eat"], ["Eat"], ["Eat"]]
    assert summary.intervals == 2


@pytest.mark.parametrize(
    ("unclosed", "activities"),
    [("next", [None, None, None, None, None]), ("session", [None, "Eat", "Eat", "Eat", None])],
)
def test_unmatched_marks_are_counted_and_no_activity_outlasts_its_session(tmp_path, unclosed, activities):
    (tmp_path / "S1.txt").write_text(
        "2009-10-16 00:00:01 M1 ON Cook end\n2009-10-16 00:00:02 M1 ON Eat begin\n"
        "2009-10-16 00:00:03 M1 ON Eat begin\n2009-10-16 00:00:04 M1 OFF 17-note\n"
    )
    (tmp_path / "S2.txt").write_text("2009-10-17 00:00:01 M1 ON\n")
    table, summary = read_events([tmp_path], "home", unclosed=unclosed)
    assert table["activity"].to_pylist() == activities
    assert table["session"].to_pylist() == ["S1"] * 4 + ["S2"]
    counts = (summary.ends_without_begin, summary.begins_without_end, summary.doubled_begins, summary.notes)
    assert counts == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("unclosed", "activities"),
    [
        ("next", [["Cook"], ["Cook"], ["Eat"], [], []]),
        ("session", [["Cook"], ["Cook"], ["Cook", "Eat"], ["Cook"], ["Cook"]]),
    ],
)
def test_an_activity_that_never_ends_lasts_until_the_next_begins_or_the_session_ends(tmp_path, unclosed, activities):
    marks = ["Cook begin", "", "Eat begin Eat end", "", ""]
    log = tmp_path / "log.txt"
    log.write_text("".join(f"2009-10-16 00:00:0{i} M1 ON {mark}\n" for i, mark in enumerate(marks)))
    table, summary = read_events([log], "home", unclosed=unclosed)
    assert table["activities"].to_pylist() == activities
    assert (summary.begins_without_end, summary.intervals) == (1, 2)
    assert f"begins without an end, {UNCLOSED[unclosed]}: 1" in str(summary)


def test_another_end_for_them_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unclosed='begin' is unknown; known: next, session"):
        read_events([tmp_path], "home", unclosed="begin")


def test_an_activity_that_never_ends_keeps_its_one_event_where_the_next_begins_too(read):
    rows, summary = read("2009-10-16 00:00:01 M1 ON Cook begin Eat begin\n2009-10-16 00:00:02 M1 ON Eat end\n")
    assert [row["activities"] for row in rows] == [["Cook", "Eat"], ["Eat"]]
    assert (summary.begins_without_end, summary.intervals) == (1, 2)


def test_a_label_on_every_event_is_its_activity(read):
    rows, summary = read(
        "2012-07-20 10:38:54.5 M1 Kitchen Sink ON Wash_Dishes\n2012-07-20 10:38:55 M2 Hall Door OFF Other Activity\n"
        "2012-07-20 10:38:56 M1 Kitchen Sink OFF\n"
    )
    assert [row["activity"] for row in rows] == ["Wash_Dishes", "Other Activity", None]
    assert [row["activities"] for row in rows] == [["Wash_Dishes"], ["Other Activity"], []]
    assert (summary.columns, summary.intervals) == ("date,time,sensor,room,area,state,activity,marker", 2)


def test_named_columns_read_orders_that_cannot_be_detected(read):
    text = "7 BEEP M1 Cook x 2012-07-20 10:38:54\n8 BOOP M2 Sleep x 2012-07-20 10:38:55\n"
    rows, _ = read(text, columns=["-", "state", "sensor", "activity", "-", "timestamp"])
    assert keys(rows) == ["M1_BEEP", "M2_BOOP"]
    assert [row["activity"] for row in rows] == ["Cook", "Sleep"]
    with pytest.raises(ValueError, match="--columns"):
        read(text)


@pytest.mark.parametrize(
    "columns, message",
    [
        ("date,time,sensor", "state missing"),
        ("sensor,state", "date and time missing"),
        ("date,time,sensor,state,colour", "'colour' is unknown"),
        ("date,time,sensor,sensor,state", "'sensor' is there 2 times"),
        ("date,time,marker,sensor,activity,state", "marker has to come right behind activity"),
    ],
)
def test_columns_that_make_no_sense_are_an_error(read, columns, message):
    with pytest.raises(ValueError, match=message):
        read(PLAIN, columns=columns.split(","))


def test_a_sensor_may_be_called_anything(read):
    rows, _ = read("2008-02-27\t12:47:37\t*\tSTART\n2008-02-27\t12:49:15\tAD1-A\t2.5\n2008-02-27\t12:49:16\ta_b\tON\n")
    assert keys(rows) == ["*_START", "AD1-A_2.5", "a_b_ON"]


def test_malformed_lines_are_skipped_counted_and_shown_with_their_numbers(read):
    bad = ["2009-10-16 00:00:01", "2009-13-45 00:00:01 M1 ON", "2009-10-16 24:00:01 M1 ON", "2009-10-16 1:00:01 M1 ON"]
    bad += ["2009-10-16 00:00:0x M1 ON", "2009-10-16 00:00:01.5x M1 ON", "2009-10-16 00:00:01 M1 `", "what"]
    good = [f"2009-10-16 00:01:{i:02d} M1 ON" for i in range(20)]
    rows, summary = read("\n".join([*good[:10], "", *bad, *good[10:], " \t", ""]))
    assert len(rows) == summary.events == 20
    assert (summary.lines, summary.blank, summary.malformed) == (30, 2, 8)
    assert summary.malformed_shown[0] == "log.txt:12: 2009-10-16 00:00:01"
    assert [int(shown.split(":")[1]) for shown in summary.malformed_shown] == [12, 13, 14, 15, 16]
    assert "malformed lines, skipped: 8" in str(summary)
    assert "log.txt:13: 2009-13-45" in str(summary)


def test_out_of_order_lines_are_sorted_stably_within_their_session(read):
    rows, summary = read(
        "2009-10-16 00:00:05 A ON\n2009-10-16 00:00:01 B ON\n2009-10-16 00:00:05 C ON\n2009-10-16 00:00:01 D ON\n"
    )
    assert [row["sensor"] for row in rows] == ["B", "D", "A", "C"]
    assert summary.out_of_order == 2


def test_states_are_mended_and_each_rule_counted(read):
    states = ["ON`", "ON0", "ON0", "OFF5", "OF", "on", "ON"]
    rows, summary = read("".join(f"2009-10-16 00:00:0{i} M1 {state}\n" for i, state in enumerate(states)))
    assert [row["state"] for row in rows] == ["ON", "ON", "ON", "OFF", "OFF", "ON", "ON"]
    assert summary.mended_states == {
        "trailing noise": {"ON` -> ON": 1, "ON0 -> ON": 2, "OFF5 -> OFF": 1},
        "cut short": {"OF -> OFF": 1},
        "case and signs": {"on -> ON": 1},
    }


# ------------------------------------------------------------------------------------------- a slow, obvious judge
def slow_read(sessions, unclosed="next"):
    """Events of {session: text} line by line: (session, time, sensor, state, value, activity, activities)."""
    rows = []
    for session, text in sorted(sessions.items()):
        events = []
        for line in text.split("\n"):
            try:
                date, time, sensor, raw, *rest = line.split()
                when = datetime.strptime(f"{date} {time}", "%Y-%m-%d %H:%M:%S" + (".%f" if "." in time else ""))
                state = normalize_state(raw)
            except ValueError:
                continue
            label, mark = (" ".join(rest[:-1]), rest[-1]) if len(rest) > 1 else (None, None)
            events.append((when, sensor, state, label, mark))
        events.sort(key=lambda event: event[0])
        intervals = slow_intervals([event[3:] for event in events], unclosed)
        for i, (when, sensor, state, *_) in enumerate(events):
            value = state_value(state)
            number = None if value is None else float(np.float32(value))
            opened = [label for label, first, last in intervals if first <= i <= last]
            rows.append((session, when, sensor, state, number, opened[-1] if opened else None, opened))
    return rows


def slow_intervals(marks, unclosed):
    """(label, first, last) in order of opening, of one session's (label, begin | end) by event."""
    intervals, opened = [], {}
    for i, (label, mark) in enumerate(marks):
        if mark == "begin" and label not in opened:
            opened[label] = [label, i, None]
            intervals.append(opened[label])
        elif mark == "end" and label in opened:
            opened.pop(label)[2] = i
    for interval in opened.values():
        later = [first for _, first, _ in intervals if first > interval[1]]
        interval[2] = len(marks) - 1 if unclosed == "session" else later[0] - 1 if later else -1
    return intervals


def random_log(rng, lines):
    """Noise of all kinds: blanks and tabs, rubbish, fractions of any length, times that go back, overlapping marks."""
    now, text = datetime(2010, 1, 1), []
    for _ in range(lines):
        now += timedelta(microseconds=rng.randrange(-1_000_000, 20_000_000))
        time = now.strftime("%Y-%m-%d %H:%M:%S.%f")[: rng.choice([19, 21, 22, 24, 26, 26])]
        gap = rng.choice(["\t", " ", "\t\t", "  "])
        state = rng.choice(["ON", "OFF", "OFF", "OFF5", "ON`", "OPEN", "12.25", "-7", "DIM_LOW", "`"])
        mark = rng.choice(["", "", "", "", "Sleep begin", "Sleep end", "R1 eats begin", "R1 eats end", "note"])
        line = gap.join([time, rng.choice(["M001", "M002", "*", "a_b", "é1"]), state, *mark.split()])
        rubbish = ["", " \t ", "rubbish", time, "2010-02-30 10:00:00 M1 ON", "2010-01-01 10:61:00 M1 ON"]
        text.append(rng.choice(rubbish) if rng.random() < 0.05 else line)
    return "\n".join(text) + rng.choice(["", "\n", "\r\n"])


@pytest.mark.parametrize("unclosed", ["next", "session"])
@pytest.mark.parametrize("seed", range(8))
def test_random_logs_read_as_by_a_slow_reader(tmp_path, monkeypatch, seed, unclosed):
    rng = random.Random(seed)
    # Blocks so small that files are cut into several: the boundaries must not show.
    monkeypatch.setattr(casas, "BLOCK_BYTES", rng.choice([700, 5000, 4 << 20]))
    sessions = {f"S{i:02d}": random_log(rng, rng.randrange(30, 300)) for i in range(5)}
    sessions["S00"] = "\n".join(f"2010-01-01 00:00:{i:02d} M1 ON" for i in range(20)) + "\n" + sessions["S00"]
    for name, text in sessions.items():
        content = text.encode()
        (tmp_path / f"{name}.txt").write_bytes(gzip.compress(content) if rng.random() < 0.3 else content)
    table, summary = read_events([tmp_path], "home", unclosed=unclosed)
    names = ["session", "timestamp", "sensor", "state", "value", "activity", "activities"]
    rows = list(zip(*(table[name].to_pylist() for name in names), strict=True))
    assert rows == slow_read(sessions, unclosed)
    assert summary.lines == summary.events + summary.blank + summary.malformed
    assert summary.lines == sum(text.count("\n") + (not text.endswith("\n")) for text in sessions.values())


# ------------------------------------------------------------------------------------------------- files and sessions
def test_each_file_is_a_session_by_its_stem_and_readmes_are_skipped_by_name(tmp_path):
    for name in ("p01.t1", "p01.t2", "P2.txt.gz"):
        content = PLAIN.encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    (tmp_path / "README").write_text("These are events.\n")
    table, summary = read_events([tmp_path], "home")
    assert table["session"].unique().to_pylist() == ["P2", "p01.t1", "p01.t2"]
    assert summary.skipped_files == ["README"]
    assert "README" in str(summary)


def test_one_session_of_two_files_is_an_error(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "P1.txt").write_text(PLAIN)
    with pytest.raises(ValueError, match="session 'P1'"):
        read_events([tmp_path / "a", tmp_path / "b"], "home")


def test_sessions_that_hold_the_same_events_are_named(tmp_path):
    other = PLAIN.replace("2009", "2010")
    for name, text in {"A": PLAIN, "B": other, "C": PLAIN}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    _, summary = read_events([tmp_path], "home")
    assert summary.repeated == {"A = C": 3}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "binary"),
        (PLAIN.encode("utf-16"), "binary"),
        (b'{"a": [1, 2]}', "expected CASAS text"),
        (b"<html><body>Not found</body></html>", "expected CASAS text"),
        (b"id,when,what\n1,2,3\n", "devices.csv"),
        (b"2009-10-16 is the first of many days\n2009-10-17 is the next\n", "expected CASAS text|--columns"),
        (gzip.compress(PLAIN.encode() * 50, mtime=0)[:60], "cut short"),
        ((PLAIN + "no event\n" * 4).encode(), "4 of 7 lines"),
    ],
)
def test_a_wrong_file_is_an_error_that_says_what_was_expected(read, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read(content)
    assert "log.txt" in str(error.value)


def test_a_folder_without_a_log_is_an_error(tmp_path):
    (tmp_path / "notes.md").write_text("nothing here")
    with pytest.raises(ValueError, match=r"notes\.md"):
        read_events([tmp_path], "home")


# --------------------------------------------------------------------------------------------------------- the command
@pytest.fixture
def log(tmp_path):
    path = tmp_path / "flat.txt"
    path.write_text(PLAIN)
    return path


def test_the_command_writes_events_and_home_and_does_nothing_the_second_time(tmp_path, log, capsys):
    home = tmp_path / "home"
    assert main(["read", str(home), "--log", str(log), "--home", "nest"]) == 0
    assert "3 events" in capsys.readouterr().out
    events = read_table(HomeFolder(home).events, EVENTS)
    assert events["home"].unique().to_pylist() == ["nest"]
    assert json.loads((home / "home.json").read_text())["home"] == "nest"

    written = HomeFolder(home).events.stat().st_mtime_ns
    assert main(["read", str(home), "--log", str(log), "--home", "nest"]) == 0
    assert "up to date" in capsys.readouterr().out
    assert HomeFolder(home).events.stat().st_mtime_ns == written

    log.write_text(PLAIN + "2009-10-16 00:03:00 M1 ON\n")
    assert main(["read", str(home), "--log", str(log), "--home", "nest"]) == 0
    assert pq.read_metadata(HomeFolder(home).events).num_rows == 4


@pytest.mark.parametrize("unclosed", ["next", "session"])
def test_a_home_of_release_0_1_is_readable_and_stays_current(tmp_path, log, capsys, unclosed):
    folder = HomeFolder(tmp_path / "home")
    command = ["read", str(folder.root), "--log", str(log), "--layout", "kyoto", "--unended", unclosed]
    assert main(command) == 0
    path = folder.root / "home.json"
    today = folder.description
    path.write_text(path.read_text().replace('"unclosed"', '"unended"'))  # in settings and summary, as 0.1 wrote it
    assert "unended" in path.read_text()
    assert run_summary(folder).unclosed == unclosed
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out == f"up to date: {run_summary(folder)}\n"
    assert run_summary(folder).unclosed == unclosed
    assert (folder.settings("read")["unclosed"], folder.summary("read")["unclosed"]) == (unclosed, unclosed)
    assert folder.description == today
    other = "next" if unclosed == "session" else "session"
    assert main([*command[:-2], "--unclosed", other]) == 0  # another setting is another table
    assert run_summary(folder).unclosed == other


def test_a_home_is_named_by_the_user_else_by_its_layout_else_by_its_log(tmp_path, log):
    layout = tmp_path / "plan.json"
    sensors = {name: {"x": 1, "y": 2, "room": "Hall", "type": "motion"} for name in ("M017", "M009")}
    layout.write_text(json.dumps({"home": "castle", "size": [10, 10], "sensors": sensors}))
    folder = HomeFolder(tmp_path / "home")
    read_home(folder, [log])
    assert folder.name == "flat"
    read_home(folder, [log], layout=layout)
    assert folder.name == "castle"
    assert set(folder.layout["sensors"]) == {"M017", "M009"}
    read_home(folder, [log], layout=layout, home="mine")
    assert folder.name == "mine"


def test_a_failed_read_leaves_nothing_behind(tmp_path, capsys):
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("hello\n")
    assert main(["read", str(tmp_path / "home"), "--log", str(wrong)]) == 2
    assert main(["read", str(tmp_path / "home"), "--log", str(tmp_path / "gone.txt")]) == 2
    errors = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "error" in line]
    assert len(errors) == 2
    assert "gone.txt" in errors[1]
    assert not (tmp_path / "home").exists()


# --------------------------------------------------------------------------------------------------------- real homes
def test_kyoto_is_read_whole(real_homes):
    table, summary = read_events([real_homes / "kyoto"], "kyoto")
    lines = sum(path.read_bytes().count(b"\n") for path in (real_homes / "kyoto").iterdir())
    assert summary.lines == lines == summary.events + summary.blank + summary.malformed
    assert summary.sessions == summary.files == 265
    assert len(table) == summary.events > 1_200_000
    states = set(table["state"].unique().to_pylist())
    assert not any("_" in state for state in states)
    assert not states & {"OF", "ON+", "ON1", "ON8", "ON72", "OFFC", "CLOSE7.3", "OFF17-"}
    labels = set(table["activity"].unique().to_pylist()) - {None}
    assert len(labels) == summary.activities == 24
    assert summary.repeated["P011 = P369"] > 5000  # one recording is there twice
    labelled = sum(label is not None for label in table["activity"].to_pylist())
    longer, longer_summary = read_events([real_homes / "kyoto"], "kyoto", unclosed="session")
    assert (summary.begins_without_end, longer_summary.begins_without_end) == (31, 31)
    assert labelled < sum(label is not None for label in longer["activity"].to_pylist())
    for name in ("P001", "P022", "P266"):  # plain; tabs and blanks mixed; fields run together
        expected = slow_read({name: (real_homes / "kyoto" / f"{name}.txt").read_text("utf-8-sig")})
        session_events = table.filter(np.array(table["session"]) == name)
        assert list(zip(*(session_events[column].to_pylist() for column in EVENTS.names[1:]), strict=True)) == expected


def test_adlnormal_has_five_tasks_in_its_joined_file_and_none_in_the_others(real_homes):
    folder = real_homes / "kyoto_adlnormal"
    joined, summary = read_events([folder / "data"], "adl")
    assert len(set(joined["activity"].to_pylist())) == summary.activities == 5
    single, _ = read_events(sorted(folder.glob("p*.t*")), "adl")
    assert len(single) == len(joined)
    assert single["activity"].null_count == len(single)


def test_tm000_has_its_seven_days(real_homes):
    table, summary = read_events([real_homes / "tm000" / "tm000.txt"], "tm000")
    assert (summary.sensors, summary.malformed, table["session"][0].as_py()) == (22, 0, "tm000")
    assert {str(day) for day in np.array(table["timestamp"]).astype("datetime64[D]")} == {
        f"2016-07-{day}" for day in range(12, 19)
    }


def test_the_benchmark_reads_every_line_that_it_made(tmp_path):
    log = tmp_path / "generated.txt"
    benchmark.write_casas_log(log, 3000, seed=1)
    figures = benchmark.benchmark_read(log, repeats=1)
    assert (figures["lines"], figures["events"], figures["sessions"]) == (3000, 3000, 1)
    assert figures["lines_per_s"] == pytest.approx(3000 / figures["read_s"], rel=0.2)
    assert figures["peak_mib"] > figures["table_mib"] > 0
    _, summary = read_events([log], "made")
    assert summary.activities == 6
    assert summary.out_of_order > 0
    assert summary.mended_states["trailing noise"]
