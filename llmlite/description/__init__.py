"""The description of a model: its layers one by one, from a file's metadata, and its weights by name."""
