"""HTTP as OpenAI, Cohere and Jina speak it, in front of the same `Service` as gRPC.

``app`` puts the routes together, ``around`` is what every request passes, ``bodies`` what requests
look like, ``inputs`` turns them into the messages that gRPC has, ``fetch`` follows allowed URLs,
``server`` runs it all in the event loop of the front end.
"""
