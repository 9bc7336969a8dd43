"""What a model is: its layers one by one, built from a file's metadata, and its weights by name."""
