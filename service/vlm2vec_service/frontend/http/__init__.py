"""HTTP as OpenAI, vLLM, Jina, Cohere, text-embeddings-inference and KServe speak it, in front of
the same `Pipeline` as gRPC.

``server`` runs the application in the event loop of the front end and ``app`` puts it together: the
routes of ``embeddings``, ``rerank``, ``cohere``, ``tei``, ``kserve``, ``models``, ``adapters``,
``health``, ``pages`` and ``webhook``, behind the ``middleware`` that every request passes.

A request comes in by ``incoming`` and ``json_body``. ``bodies`` declares requests and answers by
the ``fields`` that they share, ``input_shapes`` what a request may embed, in terms of the generic
``shapes``. ``inputs`` turns that into the messages of gRPC, and ``own_words`` errors back into what
the caller wrote; ``media_text`` knows pictures that were sent as text; ``fetch`` gets media from
the URLs that ``origins`` allows; ``formats`` writes vectors. ``caller`` knows who asks, ``cors``
which pages may, ``paths`` what there is instead of what is not, and ``errors`` how an answer says
what is wrong.
"""
