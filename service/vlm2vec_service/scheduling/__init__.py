"""Waiting requests to token-budget batches, without timers.

``fair_queue`` orders what waits; ``scheduler`` gives a worker the oldest work whenever it can take
a batch, and deals with batches that fail or take the worker down.
"""
