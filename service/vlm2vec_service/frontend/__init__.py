"""Who may ask, and is it well-formed: gRPC and HTTP, limits, health, shutdown. Never imports torch.

``server`` is the process, ``build`` makes what it serves. A request takes this way: ``grpc`` or
``http``, both through ``access`` (request id, who it is, metrics, log); ``calls`` (the public API's
unary calls); ``pipeline`` (route, admission, preprocessing, queue), which takes a ``request`` to
its answer by what is ``served``; ``vectors`` (vector to bytes). ``limits`` refuses what no server
could do. ``credentials``, ``auth`` and ``tls`` know callers and certificates, ``addresses`` what
strangers can reach, and ``reload`` files that change.
"""
