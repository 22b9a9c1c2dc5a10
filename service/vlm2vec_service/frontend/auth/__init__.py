"""Callers: who they are, what they may do, and how much of it.

``authenticator`` turns a call's credentials into an ``identity``, a name with its rights, by what
it has read from the ``callers`` file (API keys and client certificates) and by ``tokens`` (JWTs).
``quota`` limits how many requests and tokens a second each caller gets.
"""
