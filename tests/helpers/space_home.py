"""A synthetic home of a few days, read by an untrained model: all that the page needs, in seconds."""

from pathlib import Path

import torch
from training_record import TRAINING

from casita.datasets_scripts.captions.text_embeddings import MINILM
from casita.datasets_scripts.pictures.draw import draw_home
from casita.datasets_scripts.pictures.image_embeddings import embed_home
from casita.datasets_scripts.readers.read import read_home
from casita.datasets_scripts.schema import HomeFolder
from casita.datasets_scripts.synthetic.home import write_synthetic_log
from casita.modeling.configuration_casita import CasitaConfig
from casita.modeling.modeling_casita import CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.train.inference.model_directory import publish


def make_space_home(root: Path, days: int = 3) -> tuple[HomeFolder, Path]:
    """The home folder and a run folder with `model/`."""
    home = HomeFolder(root / "home")
    read_home(home, [write_synthetic_log(root / "synthetic.txt", days=days, progress=False)], "synthetic")
    draw_home(home, 64, progress=False)
    table = embed_home(home, "pixels", progress=False)
    torch.manual_seed(0)
    config = CasitaConfig(
        vocab_size=3 + len(table.keys),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        projection_dim=16,
        image_embedding_dim=table.width,
        text_embedding_dim=384,
    )
    model, processor = CasitaModel(config).eval(), CasitaProcessor(table.keys, home=home.name, text_model=MINILM)
    processor.set_home(model, table, home.layout)
    publish(model, processor, table, root / "run", TRAINING)
    return home, root / "run"
