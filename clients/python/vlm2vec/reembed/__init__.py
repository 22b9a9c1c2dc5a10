"""Re-embedding: a corpus through the service, into another vector space.

``corpus`` and ``rows`` are what is read, ``job`` is how one part of it is embedded, ``parts`` and
``folder`` are what is written, ``engines`` are where parts run, and ``run`` puts it together.
"""
