"""The process people deploy: a request becomes token ids and pixels, a batch, a vector.

One way through, left to right: ``preprocess`` (bytes and prompts to token ids and uint8
pixels) and ``engine`` (a packed batch to vectors). ``preprocess`` never imports torch and
``engine`` never imports grpc; ``tests/unit/test_imports.py`` holds them to it.
"""
