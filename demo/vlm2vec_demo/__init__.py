"""``vlm2vec demo``: the model that ships, published, served, measured and rolled out on this machine.

``run`` tells the story, ``served`` is the server's process, ``sheet`` draws what was found.
"""
