"""The page: gradio's wiring around `handlers`, and its looks."""

import os
from importlib import resources
from typing import Any, NamedTuple

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported: it reports its start to nobody

import gradio as gr

from casita.datasets_scripts.layouts.layout import SHIPPED
from casita.model_cards.space.handlers import ALL_DAYS, ONE_DAY, OWN_FILE, ApiHandlers, PageHandlers, fullest_day
from casita.model_cards.space.home_view import HomeView
from casita.model_cards.space.playback import playback

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
HEAD = (
    "<div class='casita-head'><h1>Casita</h1><p>What a home's motion, door and item sensors report, in the same space "
    "as sentences. Watch a day, or say what you are looking for.</p></div>"
)
KEEP_UPLOADS_S = (600, 3600)  # how often gradio looks, and how old what nobody read may become
DROP: dict[str, Any] = {"type": "filepath", "height": 150, "elem_classes": "drop"}
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}


class FindTab(NamedTuple):
    """Components of the tab that finds moments by a sentence."""

    sentence: gr.Textbox
    scope: gr.Radio
    button: gr.Button
    moments: gr.HTML


class ActivitiesTab(NamedTuple):
    """Components of the tab that scores activities."""

    activities: gr.Textbox
    button: gr.Button
    scores: gr.HTML


class HomeTab(NamedTuple):
    """Components of the tab that opens a visitor's home."""

    logs: gr.File
    layout: gr.Dropdown
    layout_file: gr.File
    show: gr.Button
    back: gr.Button
    summary: gr.Markdown


def build(home: HomeView, about: str = "") -> gr.Blocks:
    """Build the page over one home; `about` is a line about the model, HTML."""
    handlers = PageHandlers(home, about)
    first = fullest_day(home)
    with gr.Blocks(title="Casita", analytics_enabled=False, delete_cache=KEEP_UPLOADS_S) as page:
        uploaded = gr.State(None)  # a visitor's HomeView; None: the home that everybody sees
        gr.HTML(HEAD, apply_default_css=False)
        facts = gr.HTML(handlers.facts(home), apply_default_css=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=280):
                day = gr.Dropdown(list(home.days), value=first, label="Day")
                player = gr.HTML(
                    playback(home, first),
                    html_template=_text("player.html"),
                    js_on_load=_text("playback.js"),
                    apply_default_css=False,
                )
            with gr.Column(scale=5, min_width=280), gr.Tabs():
                finder = _find_tab()
                scorer = _activities_tab()
                opener = _home_tab()

        find = (handlers.find, [finder.sentence, finder.scope, day, uploaded], finder.moments)
        score = (handlers.score, [scorer.activities, day, uploaded], scorer.scores)
        gr.on([page.load, finder.button.click, finder.sentence.submit, finder.scope.input], *find, **QUIET)
        gr.on([page.load, scorer.button.click], *score, **QUIET)
        day.input(handlers.play, [day, uploaded], player, **QUIET).then(*find, **QUIET).then(*score, **QUIET)
        player.click(handlers.jump, [uploaded], [day, player], **QUIET)
        opener.layout.input(
            lambda choice: gr.update(visible=choice == OWN_FILE), opener.layout, opener.layout_file, **QUIET
        )
        upload = (handlers.upload, [opener.logs, opener.layout, opener.layout_file], [uploaded, opener.summary])
        opened = opener.show.click(*upload, api_name="upload", concurrency_limit=1)
        opened.success(lambda: (None, None), None, [opener.logs, opener.layout_file], **QUIET)  # their files are gone
        closed = opener.back.click(lambda: (None, ""), None, [uploaded, opener.summary], **QUIET)
        for change in (opened, closed):
            shown = change.success(handlers.show, uploaded, [facts, day, player, opener.back], **QUIET)
            shown.success(*find, **QUIET).success(*score, **QUIET)
        api = ApiHandlers(home)
        for name in ("days", "frame", "search", "zero_shot"):
            gr.api(getattr(api, name), api_name=name)
    return page


def _find_tab() -> FindTab:
    with gr.Tab("Find"):
        sentence = gr.Textbox(label="What are you looking for?", value=EXAMPLES[0], max_length=500)
        scope = gr.Radio([ONE_DAY, ALL_DAYS], value=ONE_DAY, label="Look in", show_label=False)
        button = gr.Button("Find", variant="primary")
        gr.Examples([[text] for text in EXAMPLES], [sentence], label="For instance")
        return FindTab(sentence, scope, button, gr.HTML(apply_default_css=False))


def _activities_tab() -> ActivitiesTab:
    with gr.Tab("Activities"):
        activities = gr.Textbox(ACTIVITIES, label="An activity a line", lines=6, max_length=4000)
        gr.Markdown("`name: sentence | sentence`, or just a sentence.", elem_classes="casita-note")
        button = gr.Button("Score", variant="primary")
        return ActivitiesTab(activities, button, gr.HTML(apply_default_css=False))


def _home_tab() -> HomeTab:
    with gr.Tab("Your home"):
        gr.Markdown(_text("upload.md"), elem_classes="casita-note")
        return HomeTab(
            gr.File(label="Log", file_count="multiple", **DROP),
            gr.Dropdown([OWN_FILE, *SHIPPED], value=OWN_FILE, label="Layout"),
            gr.File(label="Its file", file_types=[".json"], **DROP),
            gr.Button("Show my home", variant="primary"),
            gr.Button("Back to the first home", visible=False),
            gr.Markdown(elem_classes="casita-note"),
        )


def launch(page: gr.Blocks, port: int | None = None, share: bool = False, **options: Any) -> Any:
    """Serve the page; it reaches for nothing outside, its fonts are the visitor's own."""
    return page.launch(
        server_port=port,
        share=share,
        theme=_theme(),
        css=_text("style.css"),
        max_file_size="60mb",
        ssr_mode=False,
        footer_links=["api"],
        **options,
    )


def _theme() -> gr.themes.Base:
    plain = ("block_label", "block_title")
    clear = {f"{part}_background_fill{mode}": "transparent" for part in plain for mode in ("", "_dark")}
    return gr.themes.Soft(
        primary_hue="orange",
        neutral_hue="stone",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ).set(
        body_text_color_subdued="*neutral_600",  # readable on white, which the theme's own grey is not
        body_text_color_subdued_dark="*neutral_400",
        block_label_text_color="*body_text_color",
        block_title_text_color="*body_text_color",
        block_title_padding="0px",
        button_primary_background_fill="#c25500",
        button_primary_background_fill_hover="#a84a00",
        button_primary_background_fill_dark="#c25500",
        **clear,
    )


def _text(name: str) -> str:
    return (resources.files("casita.model_cards.space") / name).read_text(encoding="utf-8")
