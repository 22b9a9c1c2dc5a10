"""HTTP as OpenAI, Cohere and Jina speak it, in front of the same `Pipeline` as gRPC.

``server`` runs the application in the event loop of the front end and ``app`` puts it together: the
routes of ``embeddings``, ``rerank``, ``models`` and ``webhook``, behind the ``middleware`` that
every request passes. ``bodies`` declares requests and answers, ``input_shapes`` what a request may
embed, in terms of the generic ``shapes``. ``inputs`` turns that into the messages of gRPC, and
``fetch`` gets media from the URLs that ``origins`` allows. ``caller`` knows who asks, and
``errors`` how an answer says what is wrong.
"""
