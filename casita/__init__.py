"""Smart-home sensor encoders. In a checkout the rooms lie beside this folder; in a wheel, inside it."""

from pathlib import Path

__version__ = "0.1.0"

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))
