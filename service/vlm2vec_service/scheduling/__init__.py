"""Waiting inputs to token-budget batches, without timers. It knows neither gRPC nor protobuf.

``batch`` says what travels to a worker and back, ``fair_queue`` orders what waits, ``scheduler``
gives a worker the oldest inputs whenever it can take a batch, and deals with batches that fail or
take the worker down.
"""
