"""The workers of a front end: ``process`` keeps each alive, ``link`` talks to it.

``link`` is the only module of the front end that speaks the worker's gRPC; whoever stands behind
it sees plain objects and our own errors.
"""
