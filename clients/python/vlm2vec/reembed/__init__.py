"""Re-embedding: a corpus is embedded anew by the service, into another vector space.

``settings`` and ``job`` say what is to be done; ``corpus`` and ``rows`` read the corpus; ``embed``
embeds one part of it, and ``engines`` say where parts are embedded; ``part_files`` and ``folder``
write and check the results; ``run`` puts it all together.
"""
