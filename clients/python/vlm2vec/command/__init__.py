"""The command ``python -m vlm2vec``, with a module for each thing that it can do."""
