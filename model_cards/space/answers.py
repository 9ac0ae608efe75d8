"""What the page's buttons and the functions for programs give: of the home that all see, or of a visitor's own."""

from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from casita.model_cards.space.place import Place, clock, parse_activities, seconds_of
from casita.model_cards.space.playback import frame, playback
from casita.model_cards.space.timeline import search_html, zero_shot_html
from casita.model_cards.space.upload import open_upload

ONE_DAY, ALL_DAYS = "this day", "all days"
OWN_FILE = "my file"
MAX_DAYS = 120  # strips on one page


class ForVisitors:
    """The page's buttons; `own` is a visitor's home, None the one that everybody sees.

    Args:
        home: what everybody sees first.
        about: one line about the model, HTML.
    """

    def __init__(self, home: Place, about: str):
        self.home, self.about = home, about

    def play(self, day: str, own: Place | None) -> dict[str, Any]:
        return answer(playback, own or self.home, day)

    def jump(self, own: Place | None, event: gr.EventData) -> tuple[str, dict[str, Any]]:
        """To the day and second of whatever was clicked."""
        day, second = str(event._data["day"]), float(event._data["second"])
        return day, answer(playback, own or self.home, day, second)

    def find(self, sentence: str, scope: str, day: str, own: Place | None) -> str:
        place = own or self.home
        days = list(place.days)[:MAX_DAYS] if scope == ALL_DAYS else [day]
        return search_html(place, *answer(place.search, sentence, days))

    def score(self, activities: str, day: str, own: Place | None) -> str:
        place, named = own or self.home, answer(parse_activities, activities)
        return zero_shot_html(place, day, list(named), answer(place.zero_shot, named, day))

    def upload(self, files: list[str] | None, layout: str, layout_file: str | None) -> tuple[Place, str]:
        """A visitor's own home, and a line about it. What was read is removed; what was refused may be sent again."""
        source = layout if layout != OWN_FILE else Path(layout_file) if layout_file else ""
        place = answer(open_upload, list(map(Path, files or [])), source, self.home.aligned)
        for name in [*(files or []), *([layout_file] if layout_file else [])]:
            Path(name).unlink(missing_ok=True)  # gradio's copy, which it would keep
        return place, f"**{escape(place.name)}**: {place.events.num_rows:,} events on {len(place.days)} days."

    def arrive(self, own: Place | None) -> tuple[Any, ...]:
        """What changes on the page with the home: its facts, its days, the player, the way back."""
        place = own or self.home
        first = fullest_day(place)
        days = gr.update(choices=list(place.days), value=first)
        return self.facts(place), days, playback(place, first), gr.update(visible=own is not None)

    def facts(self, place: Place) -> str:
        rooms = {told["room"] for told in place.layout["sensors"].values()}
        size = f"{len(place.layout['sensors'])} sensors in {len(rooms)} rooms, {len(place.days)} days."
        return f'<p class="casita-head facts"><b>{escape(place.name)}</b>: {size} {self.about}</p>'


class ForPrograms:
    """The page's questions about one home, answered with plain numbers. (gradio shows the docstrings to callers.)"""

    def __init__(self, home: Place):
        self.home = home

    def days(self) -> list[str]:
        """The days that the home has."""
        return list(self.home.days)

    def frame(self, day: str, time: str) -> dict:
        """The floor plan at a time of a day: `svg`, and each sensor's state in `states`."""
        svg, states = answer(lambda: frame(self.home, day, seconds_of(time)))
        return {"day": day, "time": time, "svg": svg, "states": states}

    def search(self, sentence: str, day: str, top: int) -> list[dict]:
        """The windows that fit a sentence best, on one day (a date) or on `all days`."""
        days = list(self.home.days) if day == ALL_DAYS else [day]
        _, moments = answer(self.home.search, sentence, days, min(max(top, 1), 50))
        return [asdict(moment) | {"start": clock(moment.start_s), "end": clock(moment.end_s)} for moment in moments]

    def zero_shot(self, activities: list[str], day: str) -> dict:
        """The probability of each activity for each window of a day."""
        named = answer(parse_activities, "\n".join(activities))
        scores = answer(self.home.zero_shot, named, day).tolist()
        windows = self.home.day(day).windows
        times = {"start_s": windows.start_s.tolist(), "end_s": windows.end_s.tolist()}
        return {"activities": list(named), **times, "scores": scores}


def answer(function: Any, *arguments: Any) -> Any:
    """What `function` gives; a visitor's mistake as one friendly line."""
    try:
        return function(*arguments)
    except (ValueError, OSError) as error:
        raise gr.Error(" ".join(str(error).split()), duration=20, print_exception=False) from None


def fullest_day(place: Place) -> str:
    """A day worth seeing first: of the last week's, the one with most events."""
    return max(list(place.days)[-7:], key=lambda name: place.days[name].events.num_rows)
