"""Raw logs to Parquet, pictures, image and text embeddings: the builders of a home folder."""
