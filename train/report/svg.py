"""Pictures of the page as inline SVG: crisp at any size, coloured by the page's style sheet, every text escaped."""

from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

Point = tuple[float, float]


class Drawing:
    """An SVG of `width` x `height` units, which a screen reader calls `title`."""

    def __init__(self, width: float, height: float, title: str, css: str = ""):
        self.width, self.height = width, height
        self.root = ElementTree.Element(
            "svg", {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": title, "class": css}
        )

    def add(
        self, tag: str, text: str | None = None, within: ElementTree.Element | None = None, **attributes: Any
    ) -> ElementTree.Element:
        """Add an element; `css` is its class, `stroke_width` reads stroke-width, numbers are told to 0.1."""
        named = {"class" if name == "css" else name.replace("_", "-"): _told(v) for name, v in attributes.items()}
        parent = self.root if within is None else within
        element = ElementTree.SubElement(parent, tag, {name: v for name, v in named.items() if v != ""})
        element.text = text
        return element

    def circle(self, at: Point, radius: float, title: str = "", **attributes: Any) -> ElementTree.Element:
        """A disc that tells `title` when pointed at."""
        disc = self.add("circle", cx=at[0], cy=at[1], r=radius, **attributes)
        if title:
            self.add("title", title, disc)
        return disc

    def write(self, at: Point, text: str, css: str = "", **attributes: Any) -> ElementTree.Element:
        return self.add("text", text, x=at[0], y=at[1], css=css, **attributes)

    def __html__(self) -> str:
        """What a template puts in its place, as it is."""
        return Markup(ElementTree.tostring(self.root, encoding="unicode"))


def _told(value: Any) -> str:
    return f"{round(float(value), 1):g}" if isinstance(value, float | int | np.number) else str(value)


class Chart(Drawing):
    """A plot of two axes with round ticks.

    Args:
        x, y: the ends of the axes.
        percent: which axes ("x", "y", "xy") hold shares and are told as percent.
        ticks: of the x axis, where round numbers would not do.
    """

    LEFT, RIGHT, TOP, BOTTOM = 44.0, 12.0, 26.0, 40.0

    def __init__(
        self,
        title: str,
        x: Point,
        y: Point,
        labels: tuple[str, str],
        *,
        percent: str = "",
        ticks: Sequence[float] = (),
        width: float = 400,
        height: float = 270,
    ):
        super().__init__(width, height, title, "chart")
        self.x, self.y = _ends(x), _ends(y)
        rounded = MaxNLocator(5).tick_values(*self.y)
        self.y = (rounded[0], rounded[-1])
        bottom, right = height - self.BOTTOM, width - self.RIGHT
        for value in _ticks(*self.y):
            _, at = self.at(self.x[0], value)
            self.add("line", css="grid", x1=self.LEFT, x2=right, y1=at, y2=at)
            self.write((self.LEFT - 6, at + 4), self.tick(value, "y" in percent), "tick end")
        for value in ticks or _ticks(*self.x):
            at, _ = self.at(value, self.y[0])
            self.write((at, bottom + 17), self.tick(value, "x" in percent), "tick middle")
        self.add("line", css="axis", x1=self.LEFT, x2=right, y1=bottom, y2=bottom)
        self.write(((self.LEFT + right) / 2, height - 5), labels[0], "tick middle")
        self.write((2, 11), labels[1], "tick")

    def at(self, x: float, y: float) -> Point:
        """A point of the axes in the drawing's units."""
        (left, right), (low, high) = self.x, self.y
        wide, tall = self.width - self.LEFT - self.RIGHT, self.height - self.TOP - self.BOTTOM
        return self.LEFT + wide * (x - left) / (right - left), self.TOP + tall * (high - y) / (high - low)

    @staticmethod
    def tick(value: float, percent: bool) -> str:
        """What stands at a tick."""
        return f"{round(100 * value, 6):g}" if percent else f"{round(value, 6):g}"

    def line(self, points: Iterable[Point], css: str, title: str = "") -> None:
        """A polyline through points of the axes."""
        told = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        line = self.add("polyline", css=f"line {css}", points=told)
        if title:
            self.add("title", title, line)

    def dot(self, point: Point, css: str, title: str, radius: float = 3.5) -> None:
        self.circle(self.at(*point), radius, title, css=f"dot {css}")

    def interval(self, x: float, low: float, high: float, css: str) -> None:
        """An upright bar from `low` to `high`."""
        (at, top), (_, bottom) = self.at(x, high), self.at(x, low)
        self.add("line", css=f"whisker {css}", x1=at, x2=at, y1=top, y2=bottom)


def _ends(ends: Point) -> Point:
    low, high = ends
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    slack, counts = 1e-9 * (high - low), isinstance(high, int) and high - low >= 5
    return [v for v in MaxNLocator(5, integer=counts).tick_values(low, high) if low - slack <= v <= high + slack]
