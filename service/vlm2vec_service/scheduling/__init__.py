"""Waiting inputs to token-budget batches, sent whenever a worker can take one, never by a timer. It
knows neither gRPC nor protobuf.

``batch`` says what travels to a worker and back; ``fair_queue`` orders what waits, and ``places``
says how much of it may wait. ``lane`` is one worker and how long it may take, ``suspects`` what
took a worker down. ``scheduler`` gives every lane the inputs whose turn it is.
"""
