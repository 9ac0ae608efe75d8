"""Pictures of the page as inline SVG: crisp at any size, coloured by the page's style sheet, every text escaped.

A `Drawing` is built of elements; a plot is a matplotlib figure, which the page shows and `plots/` has as PNG.
"""

import io
import json
import re
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from casita.train.report.palette import DAY

Point = tuple[float, float]

PNG_ONLY = "png only"  # the gid of artists in whose place the page has HTML: titles and legends
_COLOUR = {day: f"var(--{name})" for name, day in DAY.items()}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # no XML


class Drawing:
    """An SVG of `width` x `height` units, which a screen reader calls `title`."""

    def __init__(self, width: float, height: float, title: str, css: str = ""):
        self.width = width
        self.height = height
        self.root = ElementTree.Element(
            "svg", {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": title, "class": css}
        )

    def add(
        self, tag: str, text: str | None = None, within: ElementTree.Element | None = None, **attributes: Any
    ) -> ElementTree.Element:
        """Add an element; `css` is its class, `stroke_width` reads stroke-width, numbers are rounded to 0.1."""
        named = {"class" if name == "css" else name.replace("_", "-"): _text(v) for name, v in attributes.items()}
        parent = self.root if within is None else within
        element = ElementTree.SubElement(parent, tag, {name: v for name, v in named.items() if v != ""})
        element.text = text
        return element

    def circle(self, at: Point, radius: float, title: str = "", **attributes: Any) -> ElementTree.Element:
        """Add a disc that shows `title` when pointed at."""
        disc = self.add("circle", cx=at[0], cy=at[1], r=radius, **attributes)
        if title:
            self.add("title", title, disc)
        return disc

    def write(self, at: Point, text: str, css: str = "", **attributes: Any) -> ElementTree.Element:
        """Add a line of text."""
        return self.add("text", text, x=at[0], y=at[1], css=css, **attributes)

    def __html__(self) -> str:
        """Return the markup, which a template puts in its place as it is."""
        return Markup(ElementTree.tostring(self.root, encoding="unicode"))


def _text(value: Any) -> str:
    return f"{round(float(value), 1):g}" if isinstance(value, float | int | np.number) else str(value)


def mark(artist: Artist, title: str, **attributes: str) -> None:
    """Let the page show `title` when the artist is pointed at, and give its SVG element more attributes."""
    artist.set_gid(json.dumps({"title": title, **attributes}))


def figure_svg(figure: Figure, name: str, css: str = "chart") -> Markup:
    """Return a figure as SVG for the page: its colours by the style sheet's variables, its text in the page's font.

    Args:
        name: of no other figure of the page.
        css: classes of the element, whose variable `--wide` is the figure's width at the page's text size.
    """
    hidden = [figure.patch, *figure.findobj(lambda artist: artist.get_gid() == PNG_ONLY)]
    for artist in hidden:
        artist.set_visible(False)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):  # the salt: ids that no other has
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", bbox_inches="tight", metadata=nothing)
    for artist in hidden:
        artist.set_visible(True)
    root = ElementTree.fromstring(_CONTROL.sub("", file.getvalue()))
    for element in root.iter():
        _adapt(element)
    width = float(root.get("viewBox", "").split()[2])
    for attribute in ("width", "height", "version"):
        del root.attrib[attribute]
    root.attrib |= {"role": "img", "aria-label": str(figure.get_label()), "class": css}
    root.set("style", f"--wide:{1.2 * width:.0f}px")
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _adapt(element: ElementTree.Element) -> None:
    """Turn an element of matplotlib's SVG into one of the page, in place."""
    for child in list(element):
        if child.tag.endswith(("}metadata", "}style", "}clipPath")):  # the style would hold for the whole page
            element.remove(child)
    element.tag = element.tag.rpartition("}")[2]
    element.tail = None
    element.text = (element.text or "").strip()
    marks = element.findall("{*}use")
    if len({use.get("style") for use in marks}) == 1:  # written once, for all marks inherit it
        element.set("style", marks[0].get("style", ""))
        for use in marks:
            del use.attrib["style"]
    old = dict(element.attrib)
    element.attrib.clear()
    for key, value in old.items():
        key = key.rpartition("}")[2]
        if key == "id" and value.startswith("{"):
            given = json.loads(value)
            title = ElementTree.Element("title")
            title.text = given.pop("title")
            element.insert(0, title)
            element.attrib |= given
        elif key == "style":
            style = re.sub(r"font-family:[^;]*;? ?", "", value)
            element.set("style", re.sub(r"#\w{6}", lambda colour: _COLOUR.get(colour[0], colour[0]), style))
        elif (key == "id" and element.tag == "g") or key == "clip-path" or value.startswith("rotate(-0 "):
            continue
        else:
            element.set(key, re.sub(r"(\.\d\d)\d+", r"\1", value.replace("\n", "")) if key != "id" else value)
