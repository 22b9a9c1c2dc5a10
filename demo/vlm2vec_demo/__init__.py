"""The demo, and the small model that ships for it.

``vlm2vec demo`` publishes the model's two versions, serves them, measures both and rolls the second
one out, on this machine and offline: ``run`` does it step by step, ``served`` is the server's
process, and ``sheet`` draws what was found. The package ``digits`` makes the model, and holds it.
This package uses all others but ``vlm2vec_cli``, whose command ``demo`` alone imports it.
"""
