"""Pictures of sensor states, and their embeddings by a vision model."""
