"""Pictures from files that anybody may have made: opened only if they are of a size that can be meant."""

import warnings
from pathlib import Path

from PIL import Image

LARGEST_PICTURE = 50_000_000  # pixels; a floor plan scanned at 600 dots an inch on A4 has 35 million


def open_picture(path: Path, mode: str = "RGB") -> Image.Image:
    """Open the picture of a file, decoded and converted to `mode`.

    Raises:
        FileNotFoundError: there is none. ValueError: no picture, a damaged one, or one with so many pixels that it
            would fill the memory (a small file can hold them).
    """
    try:
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as opened,
        ):
            if opened.width * opened.height > LARGEST_PICTURE:
                raise ValueError(
                    f"{opened.width} x {opened.height} pixels, expected at most {LARGEST_PICTURE:,} in all. Scale it "
                    "down"
                )
            return opened.convert(mode)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: no sound picture ({error}).") from None
