"""Who may ask, and is it well-formed: gRPC and HTTP, limits, health, shutdown. Never imports torch.

``server`` is the process. A request takes this way: ``interceptor`` (gRPC) or ``http.around``, both
through ``gate`` (request id, who it is, metrics, log); ``embedding`` or ``http`` (the public APIs) to
``calls``; ``parsing`` (message to request), ``service`` (admission, preprocessing, queue),
``vectors`` (vector to bytes). ``auth`` and ``tls`` know callers and certificates, ``exposure`` what
strangers can reach.
"""
