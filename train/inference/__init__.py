"""A trained model in use: load, embed, swap the home, export."""
