"""A network that rates training text, learned from the metagradients of small language models."""
