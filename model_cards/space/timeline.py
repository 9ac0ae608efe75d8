"""Scores over the hours of a day, as HTML that keeps its shape from a desk to a phone.

A strip is a picture one pixel high, an interval of the day a pixel, which the browser stretches; so a month of strips
is a few kilobytes. Whatever carries `data-day` and `data-second` brings the playback there when it is clicked.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle

import numpy as np
from PIL import Image

from casita.model_cards.space.home_view import DAY_S, HomeView, Moment, Windows, clock

BINS = 288  # of a day: five minutes each
ACCENT = (194, 85, 0)
# Okabe and Ito's, and tints of them, which colour-blind readers distinguish, in this order
COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a8a00", "#7a5195"),
    *("#a05a2c", "#2f4b7c", "#6b8e23", "#b0413e", "#4f6d7a", "#d4a5a5", "#5c4033", "#9aa0a6"),
)
NEAR = 5.5  # percent of the day: marks nearer than this would hide each other


def binned(windows: Windows, scores: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return `(bins,)` means of the scores `(B,)` of the windows that touch each interval; NaN where none does."""
    first = (windows.start_s * bins // DAY_S).astype(int)
    last = np.minimum((windows.end_s * bins // DAY_S).astype(int), bins - 1)
    total = np.zeros(bins)
    count = np.zeros(bins)
    for begin, end, score in zip(first, last, scores, strict=True):
        total[begin : end + 1] += score
        count[begin : end + 1] += 1
    return np.divide(total, count, out=np.full(bins, np.nan), where=count > 0)


def search_html(view: HomeView, scores: Mapping[str, np.ndarray], moments: Sequence[Moment]) -> str:
    """Show how well a sentence fits over the hours, a strip a day, with the best moments marked by their rank."""
    rows = {day: binned(view.day(day).windows, row) for day, row in scores.items()}
    all_bins = np.concatenate(list(rows.values()))
    if np.isnan(all_bins).all():
        return _note("No window of this time is known to the model.")
    low, high = np.nanquantile(all_bins, [0.2, 0.995])
    parts = []
    for day, row in rows.items():
        strength = np.clip((row - low) / max(high - low, 1e-6), 0, 1)
        marks = _marks([(rank, moment) for rank, moment in enumerate(moments, start=1) if moment.day == day])
        if len(rows) == 1:
            strips = f'<div class="curve">{_curve(strength)}</div>{_logged(view, day)}'
        else:
            strips = f'<div class="strip low">{_picture(_shades(strength))}</div>'
        parts.append(_row(day, "" if len(rows) == 1 else _short(day), strips + marks))
    shown = "one" if len(rows) == 1 else "many"
    timeline = f'<div class="timeline {shown}">{"".join(parts)}{_hours()}</div>'
    return timeline + _legend(view, rows) + _ranking(moments, shown)


def zero_shot_html(view: HomeView, day: str, names: Sequence[str], probabilities: np.ndarray) -> str:
    """Show the `(B, K)` probabilities of K activities over the hours, a strip each; below, what was logged."""
    windows = view.day(day).windows
    if not len(probabilities):
        return _note("No window of this day is known to the model.")
    best = probabilities.argmax(axis=1)
    parts = []
    for i, (name, colour) in enumerate(zip(names, cycle(COLOURS), strict=False)):
        won = f"most likely in {np.mean(best == i):.0%}"
        picture = _picture(_shades(binned(windows, probabilities[:, i]), _rgb(colour)))
        head = f'<div class="head"><i style="background:{colour}"></i>{escape(name)}<span>{won}</span></div>'
        parts.append(_row(day, "", f'{head}<div class="strip">{picture}</div>'))
    if view.day(day).logged:
        head = '<div class="head">What the log says<span>its own labels</span></div>'
        parts.append(_row(day, "", head + _logged(view, day)))
    return f'<div class="timeline one">{"".join(parts)}{_hours()}</div>{_legend(view, [day])}'


def label_colours(view: HomeView) -> dict[str, str]:
    """Return a colour for each label of a home's log, the same on every day."""
    labels = sorted({label for label in view.events["activity"].to_pylist() if label is not None})
    return dict(zip(labels, cycle(COLOURS), strict=False))


def _row(day: str, name: str, inside: str) -> str:
    label = f"<b>{escape(name)}</b>" if name else ""
    return f'<div class="row">{label}<div class="lane" data-day="{day}">{inside}<div class="now"></div></div></div>'


def _short(day: str) -> str:
    """Write `2024-01-07` as `Jan 7`."""
    return f"{np.datetime64(day).item():%b} {int(day[-2:])}"


def _hours() -> str:
    ticks = "".join(f'<span style="left:{100 * hour / 24:.3f}%">{hour:02d}</span>' for hour in range(0, 25, 3))
    return f'<div class="row"><div class="hours">{ticks}</div></div>'


def _marks(ranked: Sequence[tuple[int, Moment]]) -> str:
    """Show the ranks over their moments; one that would hide another hangs below it."""
    placed: list[tuple[float, int]] = []
    parts = []
    for rank, moment in ranked:
        left = 100 * (moment.start_s + moment.end_s) / 2 / DAY_S
        taken = {level for other, level in placed if abs(other - left) < NEAR}
        level = next(level for level in range(len(ranked)) if level not in taken)
        placed.append((left, level))
        title = f"{clock(moment.start_s)}, {escape(moment.room)}"
        parts.append(
            f'<button class="mark" style="left:{left:.3f}%;--level:{level}" data-day="{moment.day}" '
            f'data-second="{moment.start_s:.0f}" title="{title}">{rank}</button>'
        )
    return "".join(parts)


def _curve(strength: np.ndarray) -> str:
    """Draw an area over the day, 0 where nothing is known."""
    heights = np.nan_to_num(strength)
    steps = " ".join(f"L{i},{1 - h:.3f} L{i + 1},{1 - h:.3f}" for i, h in enumerate(heights))
    return (
        f'<svg viewBox="0 0 {len(heights)} 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="M0,1 {steps} L{len(heights)},1 Z"/></svg>'
    )


def _logged(view: HomeView, day: str) -> str:
    """Show the labels of the log as a thin strip."""
    stretches = view.day(day).logged
    if not stretches:
        return ""
    colours = label_colours(view)
    bars = "".join(
        f'<i title="{escape(label)}, {clock(begin)} to {clock(end)}" style="left:{100 * begin / DAY_S:.3f}%;'
        f'width:{max(0.15, 100 * (end - begin) / DAY_S):.3f}%;background:{colours[label]}"></i>'
        for begin, end, label in stretches
    )
    return f'<div class="logged">{bars}</div>'


def _legend(view: HomeView, days: Sequence[str] | Mapping[str, object]) -> str:
    """Return the legend of the labels of one day; nothing for several, whose strips do not show them."""
    if len(days) != 1:
        return ""
    (day,) = days
    present = {label for _, _, label in view.day(day).logged}
    shown = "".join(
        f'<span><i style="background:{colour}"></i>{escape(_plain(label))}</span>'
        for label, colour in label_colours(view).items()
        if label in present
    )
    return f'<div class="legend"><b>Logged</b>{shown}</div>' if shown else ""


def _ranking(moments: Sequence[Moment], shown: str) -> str:
    best = max((moment.score for moment in moments), default=0.0)
    rows = []
    for rank, moment in enumerate(moments, start=1):
        share = max(0.0, moment.score / best) if best > 0 else 0.0
        logged = f"logged as {_plain(moment.logged)}" if moment.logged else "without a label"
        rows.append(
            f'<li><button data-day="{moment.day}" data-second="{moment.start_s:.0f}"><b>{rank}</b>'
            f"<span><strong>{clock(moment.start_s)}&#8202;-&#8202;{clock(moment.end_s)}</strong> "
            f"{'' if shown == 'one' else f'{_short(moment.day)}, '}"
            f"{escape(moment.room)}<small>{moment.events} events, {escape(logged)}</small></span>"
            f'<em style="--share:{share:.2f}">{moment.score:.2f}</em></button></li>'
        )
    return f'<ol class="ranking">{"".join(rows)}</ol>'


def _plain(label: str) -> str:
    return label.replace("_", " ")


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _shades(strength: np.ndarray, colour: tuple[int, int, int] = ACCENT) -> np.ndarray:
    """Turn `(bins,)` in [0, 1] or NaN into `(1, bins, 4)` uint8: the colour, more or less opaque."""
    rgba = np.zeros((1, len(strength), 4), np.uint8)
    rgba[..., :3] = colour
    rgba[..., 3] = np.round(255 * np.nan_to_num(strength))
    return rgba


def _picture(rgba: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(rgba, "RGBA").save(file, "PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue
