"""Who may ask, and is it well-formed: gRPC, limits, health, shutdown. Never imports torch.

``server`` is the process. A request takes this way: ``interceptor`` (request id, errors, metrics,
log), ``embedding`` (the public API), ``parsing`` (message to request), ``service`` (admission,
preprocessing, queue), ``vectors`` (vector to bytes).
"""
