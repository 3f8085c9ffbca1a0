"""Trained networks: the folder that an evaluation leaves, predictions, export to other formats, a pretrained start."""
