"""Swap of the home of a trained model: the table of that home's pictures instead of its own."""

from collections.abc import Sequence

from casita.datasets_scripts.schema import HomeFolder
from casita.modeling.modeling_casita import CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable


def move_home(model: CasitaModel, processor: CasitaProcessor, folders: Sequence[HomeFolder]) -> SensorEmbeddingTable:
    """Move both into the homes of `folders`, and return the table that they read from now on.

    Raises:
        FileNotFoundError: a home has no picture embeddings by the model's vision model.
    """
    tables = [table_by(folder, processor.vision_model) for folder in folders]
    layouts = {folder.name: folder.layout for folder in folders}
    levels = {folder.name: folder.summary("windows").get("levels", {}) for folder in folders}
    if len(folders) == 1:
        [table] = tables
        [folder] = folders
        processor.set_home(model, table, layouts[folder.name], levels[folder.name])
    else:
        table = SensorEmbeddingTable.concatenate(tables)
        processor.set_home(model, table, layouts, levels)
    return table


def table_by(folder: HomeFolder, vision_model: str | None) -> SensorEmbeddingTable:
    """Load the home's picture embeddings by a vision model.

    Raises:
        FileNotFoundError: there are none.
    """
    files = sorted((folder.root / "image_embeddings").glob("*.safetensors"))
    for table in map(SensorEmbeddingTable.load, files):
        if table.vision_model == vision_model:
            return table
    raise FileNotFoundError(
        f"{folder.root}: no picture embeddings by {vision_model}, which the checkpoint reads. Run: casita "
        f"embed-images {folder.root} --vision-model {vision_model}"
    )
