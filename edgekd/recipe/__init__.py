"""The tables of a recipe and how they are read and validated; loads no torch."""
