"""`casita layout`: the shipped layouts, and how a layout fits a log."""

import argparse
from pathlib import Path

from casita.datasets_scripts.layouts.layout import SHIPPED, load_layout, unmatched_sensors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `casita layout`."""
    parser.description = "The layouts that ship with Casita, and how a layout fits a log."
    parser.epilog = (
        "example: casita layout check data/milan.txt milan\n"
        "exit code of check: 0 when every event lies on a placed sensor, 1 when some do not, 2 on an error"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="the shipped layouts")
    check = actions.add_parser(
        "check", help="sensors without a position, positions that no sensor uses", allow_abbrev=False
    )
    check.add_argument(
        "log", nargs="+", type=Path, metavar="LOG", help="raw log file(s), or a folder of session files"
    )
    check.add_argument("layout", metavar="LAYOUT", help="a shipped name, or a JSON file")
    check.add_argument("--columns", help="columns of the log in order, by commas, where they cannot be detected")


def run(args: argparse.Namespace) -> int:
    """Run `casita layout list` or `casita layout check`."""
    if args.action == "check":
        return _check(args)
    for name in SHIPPED:
        layout = load_layout(name)
        width, height = layout["size"]
        rooms = {sensor["room"] for sensor in layout["sensors"].values()}
        print(f"{name:<12} {len(layout['sensors']):>4} sensors in {len(rooms):>2} rooms, plan {width} x {height}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from casita.datasets_scripts.readers.read import read_events  # reading needs pandas: not for `list`

    layout = load_layout(args.layout)
    columns = args.columns.split(",") if args.columns else None
    events, _ = read_events(args.log, home=layout["home"], columns=columns)
    counts = {row["values"]: row["counts"] for row in events["sensor"].value_counts().to_pylist()}
    unplaced, unused = unmatched_sensors(layout, counts)
    lost = sum(counts[sensor] for sensor in unplaced)
    print(f"{len(counts)} sensors with {events.num_rows} events; the layout places {len(layout['sensors'])} sensors")
    print(f"without a position: {len(unplaced)} sensors with {lost} events ({lost / max(events.num_rows, 1):.1%})")
    for sensor in sorted(unplaced, key=lambda s: (-counts[s], s)):
        print(f"  {sensor or '(empty id)':<24} {counts[sensor]:>9} events")
    print(f"positions that no sensor uses: {len(unused)}")
    for sensor in unused:
        print(f"  {sensor:<24} {layout['sensors'][sensor]['type']} in {layout['sensors'][sensor]['room']}")
    return 1 if lost else 0
