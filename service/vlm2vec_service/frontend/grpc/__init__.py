"""The public API over gRPC.

``interceptor`` is around every call; ``embedding`` and ``adapters`` are the two services, and
``health`` is gRPC's own.
"""
