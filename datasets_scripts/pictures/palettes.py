"""The colours of the dots: a sensor's type and state to red, green, blue, by one of a few palettes.

| palette | what a dot's colour stands for |
|---|---|
| `casita` | type and state: no two of them are alike |
| `mono` | nothing: a sensor's states have equal pictures, so that a model reads where something happened and no more |
| `okabe-ito` | state, and type as far as eight colours go |

`casita`: hues of active states are those of Okabe and Ito's palette, made for colour-blind readers, or near them; an
inactive state is dark and of another hue. So two states differ in lightness (a colour-blind reader's cue) and in hue
(a vision model's cue: a mere tint would leave the two vectors almost parallel). Levels run from light to dark
(viridis for power, YlGnBu for water), temperature from blue over yellow to red (RdYlBu).

`okabe-ito`: those eight colours and no others (Okabe and Ito 2008, "Color Universal Design"). What is active has a
hue, what is not is black, but for doors, since an item often lies behind one. Eight colours cannot keep eleven types
apart everywhere: two sensors at one place can have equal pictures.
"""

import colorsys
import zlib

Colour = tuple[int, int, int]

# type -> colours of (inactive or LOW, NORMAL, active or HIGH)
PALETTE: dict[str, tuple[Colour, Colour, Colour]] = {
    "motion": ((0, 40, 110), (110, 70, 60), (213, 94, 0)),
    "motion_area": ((50, 30, 120), (140, 95, 60), (230, 159, 0)),
    "door": ((100, 0, 60), (50, 80, 90), (0, 158, 115)),
    "item": ((0, 75, 40), (100, 100, 105), (204, 121, 167)),
    "pressure": ((100, 45, 0), (95, 110, 115), (86, 180, 233)),
    "flush": ((90, 20, 20), (45, 65, 100), (0, 114, 178)),
    "light": ((45, 20, 90), (140, 125, 80), (240, 228, 66)),
    "switch": ((70, 20, 70), (110, 110, 75), (148, 203, 81)),
    "temperature": ((69, 117, 180), (254, 224, 144), (215, 48, 39)),
    "power": ((253, 231, 37), (33, 145, 140), (68, 1, 84)),
    "water": ((237, 248, 177), (65, 182, 196), (8, 29, 88)),
}
_BLACK, _ORANGE, _SKY, _GREEN = (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115)
_YELLOW, _BLUE, _VERMILION, _PURPLE = (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)
PALETTES: dict[str, dict[str, tuple[Colour, Colour, Colour]]] = {
    "casita": PALETTE,
    "mono": dict.fromkeys(PALETTE, (_VERMILION, _VERMILION, _VERMILION)),  # no room's pastel is near it
    "okabe-ito": {
        "motion": (_BLACK, _SKY, _VERMILION),
        "motion_area": (_BLACK, _SKY, _ORANGE),
        "door": (_BLUE, _SKY, _YELLOW),
        "item": (_BLACK, _SKY, _PURPLE),
        "pressure": (_BLACK, _ORANGE, _SKY),
        "flush": (_BLACK, _SKY, _BLUE),
        "light": (_BLACK, _SKY, _YELLOW),
        "switch": (_BLACK, _SKY, _GREEN),
        "temperature": (_BLUE, _YELLOW, _VERMILION),
        "power": (_YELLOW, _GREEN, _PURPLE),
        "water": (_YELLOW, _SKY, _BLUE),
    },
}
DEFAULT_PALETTE = "casita"

PAIRS = (("OFF", "ON"), ("CLOSE", "OPEN"), ("ABSENT", "PRESENT"))  # inactive, active
RANK = {"OFF": 0, "CLOSE": 0, "ABSENT": 0, "LOW": 0, "NORMAL": 1, "HIGH": 2, "ON": 2, "OPEN": 2, "PRESENT": 2}


def colour_of(sensor_type: str, state: str, palette: str = DEFAULT_PALETTE) -> Colour:
    """Return the dot's colour.

    A state outside PAIRS and LEVELS gets, the same in every run, a hue of its own in `casita`, in another palette one
    of the colours that its type has not, if there are any.
    """
    colours_of = PALETTES[palette]
    if state in RANK:
        return colours_of[sensor_type][RANK[state]]
    number = zlib.crc32(f"{sensor_type} {state}".encode())
    if palette != "casita":
        all_colours = dict.fromkeys(colour for colours in colours_of.values() for colour in colours)
        others = [colour for colour in all_colours if colour not in colours_of[sensor_type]] or list(all_colours)
        return others[number % len(others)]
    red, green, blue = colorsys.hsv_to_rgb(number / 2**32, 0.75, 0.8)
    return round(red * 255), round(green * 255), round(blue * 255)
