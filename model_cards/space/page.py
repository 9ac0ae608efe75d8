"""The page: gradio's wiring around `place`, `playback`, `timeline` and `upload`, and its functions for programs."""

import os
from dataclasses import asdict
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported: it tells nobody of its start

import gradio as gr

from casita.datasets_scripts.layouts import SHIPPED
from casita.model_cards.space.place import Place, clock, parse_activities, seconds_of
from casita.model_cards.space.playback import frame, playback
from casita.model_cards.space.timeline import search_html, zero_shot_html
from casita.model_cards.space.upload import open_upload

EXAMPLES = (
    "Somebody is cooking a meal.",
    "Somebody is asleep in bed.",
    "Watching television in the evening.",
    "The resident leaves the home.",
)
ACTIVITIES = """Sleeping: Somebody is asleep in bed.
Cooking: Somebody is cooking a meal. | Preparing dinner in the kitchen.
Washing: Somebody is washing in the bathroom.
Relaxing: Somebody is watching television.
Working: Somebody is working at the desk.
Out: Somebody leaves the home."""
ONE_DAY, ALL_DAYS = "this day", "all days"
OWN_FILE = "my file"
MAX_DAYS = 120  # strips on one page


def build(home: Place, about: str = "") -> gr.Blocks:
    """The page over one home.

    Args:
        home: what every visitor sees first.
        about: one line about the model, HTML.
    """
    days, first = list(home.days), _fullest(home)
    with gr.Blocks(title="Casita", analytics_enabled=False) as page:
        mine = gr.State(None)  # a visitor's own Place; None: the home that everybody sees
        gr.HTML(_head(home, about))
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=280):
                day = gr.Dropdown(days, value=first, label="Day", filterable=len(days) > 12)
                player = gr.HTML(
                    playback(home, first),
                    html_template=_text("player.html"),
                    js_on_load=_text("playback.js"),
                    apply_default_css=False,
                )
            with gr.Column(scale=5, min_width=280), gr.Tabs():
                with gr.Tab("Find"):
                    sentence = gr.Textbox(label="What are you looking for?", value=EXAMPLES[0], max_length=500)
                    scope = gr.Radio([ONE_DAY, ALL_DAYS], value=ONE_DAY, label="Look in", show_label=False)
                    find = gr.Button("Find", variant="primary")
                    gr.Examples([[text] for text in EXAMPLES], [sentence], label="For instance")
                    found = gr.HTML(apply_default_css=False)
                with gr.Tab("Activities"):
                    activities = gr.Textbox(ACTIVITIES, label="An activity a line", lines=6, max_length=4000)
                    gr.Markdown("`name: sentence | sentence`, or just a sentence.", elem_classes="casita-note")
                    score = gr.Button("Score", variant="primary")
                    scored = gr.HTML(apply_default_css=False)
                with gr.Tab("Your home"):
                    gr.Markdown(_text("upload.md"), elem_classes="casita-note")
                    logs = gr.File(
                        label="Log", file_count="multiple", type="filepath", height=110, elem_classes="drop"
                    )
                    which = gr.Dropdown([OWN_FILE, *SHIPPED], value=OWN_FILE, label="Layout")
                    layout = gr.File(
                        label="Its file", file_types=[".json"], type="filepath", height=110, elem_classes="drop"
                    )
                    show = gr.Button("Show my home", variant="primary")
                    back = gr.Button("Back to the first home", visible=False)
                    told = gr.Markdown(elem_classes="casita-note")

        def play(name: str, own: Place | None) -> dict[str, Any]:
            return _answer(playback, own or home, name)

        def jump(own: Place | None, event: gr.EventData) -> tuple[Any, Any]:
            name, second = str(event._data["day"]), float(event._data["second"])
            return name, _answer(playback, own or home, name, second)

        def find_moments(words: str, where: str, name: str, own: Place | None) -> str:
            return _answer(_find_html, own or home, words, where, name)

        def score_day(text: str, name: str, own: Place | None) -> str:
            return _answer(_score_html, own or home, text, name)

        def open_own(files: list[str] | None, choice: str, file: str | None) -> tuple[Any, ...]:
            source: Path | str = Path(file or "") if choice == OWN_FILE else choice
            if choice == OWN_FILE and not file:
                raise gr.Error("The layout is missing. Choose a JSON file, or one that ships.", print_exception=False)
            place = _answer(open_upload, list(map(Path, files or [])), source, home.aligned)
            return _moved(
                place, place, f"**{escape(place.name)}**: {place.events.num_rows:,} events on {len(place.days)} days."
            )

        gr.on([page.load, find.click, sentence.submit], find_moments, [sentence, scope, day, mine], found, **QUIET)
        gr.on([page.load, score.click], score_day, [activities, day, mine], scored, **QUIET)
        day.input(play, [day, mine], player, **QUIET).then(
            find_moments, [sentence, scope, day, mine], found, **QUIET
        ).then(score_day, [activities, day, mine], scored, **QUIET)
        scope.input(find_moments, [sentence, scope, day, mine], found, **QUIET)
        player.click(jump, [mine], [day, player], **QUIET)
        which.input(lambda choice: gr.update(visible=choice == OWN_FILE), which, layout, **QUIET)
        moved = [mine, day, player, back, told, found, scored]
        opened = show.click(open_own, [logs, which, layout], moved, api_name="upload", concurrency_limit=1)
        closed = back.click(lambda: _moved(None, home, ""), None, moved, **QUIET)
        for arrived in (opened, closed):
            arrived.success(find_moments, [sentence, scope, day, mine], found, **QUIET).success(
                score_day, [activities, day, mine], scored, **QUIET
            )
        _for_programs(home)
    return page


QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}


def _for_programs(home: Place) -> None:
    """The page's questions as functions that answer with plain numbers, about the first home."""

    def frame_at(day: str, time: str) -> dict:
        """The floor plan at a time of a day: `svg`, and each sensor's state in `states`."""
        svg, states = _answer(lambda: frame(home, day, seconds_of(time)))
        return {"day": day, "time": time, "svg": svg, "states": states}

    def search(sentence: str, day: str, top: int) -> list[dict]:
        """The windows that fit a sentence best, on one day (a date) or on `all days`."""
        days = list(home.days) if day == ALL_DAYS else [day]
        _, moments = _answer(home.search, sentence, days, min(max(top, 1), 50))
        return [asdict(moment) | {"start": clock(moment.start_s), "end": clock(moment.end_s)} for moment in moments]

    def zero_shot(activities: list[str], day: str) -> dict:
        """The probability of each activity for each window of a day."""
        named = _answer(lambda: parse_activities("\n".join(activities)))
        shares = _answer(home.zero_shot, named, day)
        windows = home.day(day).windows
        return {
            "activities": list(named),
            "start_s": windows.start_s.tolist(),
            "end_s": windows.end_s.tolist(),
            "scores": shares.tolist(),
        }

    def days() -> list[str]:
        """The days that the home has."""
        return list(home.days)

    for function, name in ((frame_at, "frame"), (search, "search"), (zero_shot, "zero_shot"), (days, "days")):
        gr.api(function, api_name=name)


def launch(page: gr.Blocks, port: int | None = None, share: bool = False, **options: Any) -> Any:
    """Serve the page; gradio reaches for nothing outside (its fonts and icons are the machine's own)."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gr.themes.Soft(
        primary_hue="orange", neutral_hue="stone", font=fonts, font_mono=["ui-monospace", "Consolas", "monospace"]
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color="*body_text_color",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color="*body_text_color",
        block_title_padding="0px",
        button_primary_background_fill="#c25500",
        button_primary_background_fill_hover="#a84a00",
        button_primary_background_fill_dark="#c25500",
    )
    return page.launch(
        server_port=port,
        share=share,
        theme=theme,
        css=_text("style.css"),
        max_file_size="60mb",
        ssr_mode=False,
        footer_links=["api"],
        **options,
    )


def _answer(function: Any, *arguments: Any) -> Any:
    """A caller's mistake as one friendly line."""
    try:
        return function(*arguments)
    except (ValueError, OSError) as error:
        raise gr.Error(" ".join(str(error).split()), duration=None, print_exception=False) from None


def _find_html(place: Place, words: str, where: str, name: str) -> str:
    days = list(place.days)[:MAX_DAYS] if where == ALL_DAYS else [name]
    scores, moments = place.search(words, days)
    return search_html(place, scores, moments)


def _score_html(place: Place, text: str, name: str) -> str:
    named = parse_activities(text)
    return zero_shot_html(place, name, list(named), place.zero_shot(named, name))


def _moved(own: Place | None, place: Place, line: str) -> tuple[Any, ...]:
    """What changes on the page with the home."""
    first = _fullest(place)
    days = gr.update(choices=list(place.days), value=first)
    return own, days, playback(place, first), gr.update(visible=own is not None), line, "", ""


def _fullest(place: Place) -> str:
    """A day worth seeing first: of the last week's, the one with most events."""
    return max(list(place.days)[-7:], key=lambda name: place.days[name].events.num_rows)


def _head(place: Place, about: str) -> str:
    rooms = {told["room"] for told in place.layout["sensors"].values()}
    size = f"{len(place.layout['sensors'])} sensors in {len(rooms)} rooms, {len(place.days)} days."
    return (
        "<div class='casita-head'><h1>Casita</h1><p>What a home's motion, door and item sensors report, in the same "
        "space as sentences. Watch a day, or say what you are looking for.</p>"
        f'<p class="facts"><b>{escape(place.name)}</b>: {size} {about}</p></div>'
    )


def _text(name: str) -> str:
    return (resources.files("casita.model_cards.space") / name).read_text(encoding="utf-8")
