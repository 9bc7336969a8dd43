"""The description of a model: a record for each layer, from a file's metadata, and the weights by name."""
