"""The contact sheet: a home's plan with every name on it, above all of its pictures; for people, not for models."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from casita.datasets_scripts.pictures.files import open_picture
from casita.files import read_json

SHEET_WIDTH = 1800
PLAN_SIDE = 1500
THUMBNAIL = 132
_GAP = 12
_INK, _PALE, _WHITE = (20, 20, 20), (110, 110, 110), (255, 255, 255)

Box = tuple[float, float, float, float]
Point = tuple[float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_font = cache(ImageFont.load_default)  # by size; it unpacks a file each time


def draw_contact_sheet(
    title: str, plan: Image.Image, dots: Mapping[str, Point], rooms: Mapping[str, Point], pictures: Path
) -> Image.Image:
    """Draw one tall RGB picture: title, `plan` with labels, then every picture of the folder `pictures` with its key.

    Args:
        plan: the home with all of its dots, PLAN_SIDE x PLAN_SIDE.
        dots: sensor -> pixel position of its dot on `plan`.
        rooms: room -> pixel position for its name on `plan`.
        pictures: a folder with `index.json` (key -> file).
    """
    index = read_json(pictures / "index.json")
    labelled = _label_plan(plan, dots, rooms)
    _, first_row, _, end_row = ImageOps.invert(labelled.convert("L")).getbbox() or (0, 0, *labelled.size)
    # without the white above and below a wide plan
    top = labelled.crop((0, max(0, first_row - 10), labelled.width, min(labelled.height, end_row + 10)))
    columns = (SHEET_WIDTH - _GAP) // (THUMBNAIL + _GAP)
    pitch = THUMBNAIL + 30
    rows = -(-len(index) // columns)
    grid_top = 70 + top.height + 20
    sheet = Image.new("RGB", (SHEET_WIDTH, grid_top + rows * pitch + _GAP), _WHITE)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 20), f"{title}: {len(dots)} sensors, {len(index)} pictures", fill=_INK, font=_font(30))
    sheet.paste(top, ((SHEET_WIDTH - top.width) // 2, 70))
    for i, (key, name) in enumerate(index.items()):
        left = _GAP + i % columns * (THUMBNAIL + _GAP)
        upper = grid_top + i // columns * pitch
        picture = open_picture(pictures / name).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        sheet.paste(picture, (left, upper))
        pen.rectangle([left, upper, left + THUMBNAIL - 1, upper + THUMBNAIL - 1], outline=(200, 200, 200))
        pen.text((left, upper + THUMBNAIL + 3), *_fit_text(key, THUMBNAIL))
    return sheet


def _fit_text(text: str, width_px: int) -> tuple[str, tuple[int, int, int], Font]:
    """Return `text`, ink and the largest font up to 14 that fits `width_px`; shortened in its middle if none does."""
    for size in (14, 12, 10):
        font = _font(size)
        if font.getlength(text) <= width_px:
            return text, _INK, font
    keep = len(text)
    while font.getlength(shortened := f"{text[: keep // 2]}…{text[-(keep // 2) :]}") > width_px:
        keep -= 1
    return shortened, _INK, font


def _label_plan(plan: Image.Image, dots: Mapping[str, Point], rooms: Mapping[str, Point]) -> Image.Image:
    """Copy `plan` with room names, and the sensor names beside their dots where they cover least of one another."""
    picture = plan.copy()
    pen = ImageDraw.Draw(picture)
    small = _font(15)
    large = _font(24)
    taken: list[Box] = [(x - 9, y - 9, x + 9, y + 9) for x, y in dots.values()]
    for sensor, at in sorted(dots.items(), key=lambda item: item[1][::-1]):
        _, _, right, lower = pen.textbbox((0, 0), sensor, font=small)
        best = min(_label_boxes(at, right, lower), key=lambda box: sum(_overlap(box, other) for other in taken))
        taken.append(best)
        pen.rounded_rectangle(best, radius=3, fill=_WHITE, outline=(190, 190, 190))
        pen.text((best[0] + 2, best[1] + 1), sensor, fill=_INK, font=small)
    for room, at in rooms.items():
        name = room.replace("_", " ")
        _, _, right, lower = pen.textbbox((0, 0), name, font=large)
        x = at[0] - right / 2
        y = at[1] - lower / 2
        # up or down from the room's middle, until the name lies on no dot and no label
        shifts = sorted(range(-140, 141, 10), key=abs)
        boxes = [(x, y + dy, x + right, y + dy + lower) for dy in shifts]
        best = min(boxes, key=lambda box: sum(_overlap(box, other) for other in taken))
        taken.append(best)
        pen.text((best[0], best[1]), name, fill=_PALE, font=large, stroke_width=2, stroke_fill=_WHITE)
    return picture


def _label_boxes(at: Point, width: float, height: float) -> Iterator[Box]:
    """Yield boxes for a label around a dot, the best-liked first: right, left, below, above, then the corners."""
    x, y = at
    w = width + 4
    h = height + 4
    away = 11
    sides = [(x + away, y - h / 2), (x - away - w, y - h / 2), (x - w / 2, y + away), (x - w / 2, y - away - h)]
    corners = [(x + sx, y + sy) for sx in (away - 3, 3 - away - w) for sy in (away - 3, 3 - away - h)]
    for left, top in (*sides, *corners):
        yield left, top, left + w, top + h


def _overlap(a: Box, b: Box) -> float:
    """Return the common area of two boxes in square pixels."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
