"""The command ``python -m vlm2vec``."""
