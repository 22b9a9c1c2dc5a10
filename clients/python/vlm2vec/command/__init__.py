"""The command ``vlm2vec-client``, with a module for each thing that it can do."""
