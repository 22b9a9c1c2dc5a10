"""``vlm2vec bench``: load on a running server, and how long it takes to answer.

``ways`` sends requests over gRPC or HTTP, ``load`` decides when, ``report`` shows what came of it.
"""
