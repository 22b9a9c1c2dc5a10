"""Adapter versions: what an artifact holds and where it comes from.

``embedding_config`` is the ``embedding.json`` beside an adapter's weights. This package imports
neither torch nor grpc.
"""
