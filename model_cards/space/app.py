"""The Space on the Hub: `python app.py` beside `space.json`, the home folder `home/` and the code of casita."""

from pathlib import Path

from casita.model_cards.space.serve import serve_space

if __name__ == "__main__":
    serve_space(Path(__file__).absolute().parent)
