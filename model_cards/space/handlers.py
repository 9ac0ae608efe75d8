"""Handlers of the page's buttons and of the functions for programs, over the first home or an uploaded one."""

from collections.abc import Callable
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio as gr

from casita.model_cards.space.home_view import HomeView, clock, parse_activities, seconds_of
from casita.model_cards.space.playback import Playback, frame, playback
from casita.model_cards.space.timeline import search_html, zero_shot_html
from casita.model_cards.space.upload import open_upload

ONE_DAY = "this day"
ALL_DAYS = "all days"
OWN_FILE = "my file"
MAX_DAYS = 120  # strips on one page

P = ParamSpec("P")
R = TypeVar("R")


class PageHandlers:
    """The actions of the page's buttons; `uploaded` is a visitor's home, None where the shared one is shown.

    Args:
        home: what everybody sees first.
        about: one line about the model, HTML.
    """

    def __init__(self, home: HomeView, about: str):
        self.home = home
        self.about = about

    def play(self, day: str, uploaded: HomeView | None) -> Playback:
        """Return what the player needs for a day."""
        return friendly(playback, uploaded or self.home, day)

    def jump(self, uploaded: HomeView | None, event: gr.EventData) -> tuple[str, Playback]:
        """Go to the day and second of whatever was clicked."""
        day = str(event._data["day"])
        return day, friendly(playback, uploaded or self.home, day, float(event._data["second"]))

    def find(self, sentence: str, scope: str, day: str, uploaded: HomeView | None) -> str:
        """Show how well a sentence fits over the hours, and the best moments."""
        view = uploaded or self.home
        days = list(view.days)[:MAX_DAYS] if scope == ALL_DAYS else [day]
        return search_html(view, *friendly(view.search, sentence, days))

    def score(self, activities: str, day: str, uploaded: HomeView | None) -> str:
        """Show the probability of each activity over the hours of a day."""
        view = uploaded or self.home
        sentences = friendly(parse_activities, activities)
        return zero_shot_html(view, day, list(sentences), friendly(view.zero_shot, sentences, day))

    def upload(self, files: list[str] | None, layout: str, layout_file: str | None) -> tuple[HomeView, str]:
        """Open a visitor's home, with a line about it; files that were read are removed, refused ones are kept."""
        logs = [Path(name) for name in files or []]
        layouts = [Path(layout_file)] if layout_file else []
        source = layout if layout != OWN_FILE else layouts[0] if layouts else ""
        view = friendly(open_upload, logs, source, self.home.loaded)
        for path in [*logs, *layouts]:
            path.unlink(missing_ok=True)  # gradio's copy, which it would keep
        return view, f"**{escape(view.name)}**: {view.events.num_rows:,} events on {len(view.days)} days."

    def show(self, uploaded: HomeView | None) -> tuple[Any, ...]:
        """Return what changes on the page with the home: its facts, its days, the player, the way back."""
        view = uploaded or self.home
        first = fullest_day(view)
        days = gr.update(choices=list(view.days), value=first)
        return self.facts(view), days, playback(view, first), gr.update(visible=uploaded is not None)

    def facts(self, view: HomeView) -> str:
        """Return a line about a home, HTML."""
        sensors = view.layout["sensors"].values()
        rooms = {sensor["room"] for sensor in sensors}
        size = f"{len(sensors)} sensors in {len(rooms)} rooms, {len(view.days)} days."
        return f'<p class="casita-head facts"><b>{escape(view.name)}</b>: {size} {self.about}</p>'


class ApiHandlers:
    """The page's questions about one home, answered with plain numbers. (gradio shows the docstrings to callers.)"""

    def __init__(self, home: HomeView):
        self.home = home

    def days(self) -> list[str]:
        """Return the days that the home has."""
        return list(self.home.days)

    def frame(self, day: str, time: str) -> dict:
        """Return the floor plan at a time of a day: `svg`, and each sensor's state in `states`."""
        svg, states = friendly(lambda: frame(self.home, day, seconds_of(time)))
        return {"day": day, "time": time, "svg": svg, "states": states}

    def search(self, sentence: str, day: str, top: int) -> list[dict]:
        """Return the windows that fit a sentence best, on one day (a date) or on `all days`."""
        days = list(self.home.days) if day == ALL_DAYS else [day]
        _, moments = friendly(self.home.search, sentence, days, min(max(top, 1), 50))
        return [asdict(moment) | {"start": clock(moment.start_s), "end": clock(moment.end_s)} for moment in moments]

    def zero_shot(self, activities: list[str], day: str) -> dict:
        """Return the probability of each activity for each window of a day."""
        sentences = friendly(parse_activities, "\n".join(activities))
        scores = friendly(self.home.zero_shot, sentences, day).tolist()
        windows = self.home.day(day).windows
        times = {"start_s": windows.start_s.tolist(), "end_s": windows.end_s.tolist()}
        return {"activities": list(sentences), **times, "scores": scores}


def friendly(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `function`; a visitor's mistake becomes one friendly line."""
    try:
        return function(*args, **kwargs)
    except (ValueError, OSError) as error:
        raise gr.Error(" ".join(str(error).split()), duration=20, print_exception=False) from None


def fullest_day(view: HomeView) -> str:
    """Return a day worth seeing first: of the last week's, the one with most events."""
    return max(list(view.days)[-7:], key=lambda name: view.days[name].events.num_rows)
