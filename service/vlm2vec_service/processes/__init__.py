"""Several front-end processes on the same ports, and what they share.

One *owner* starts the workers, asks the registry, and starts the *members*, which are what callers
talk to: each is a front end as one process alone would be, with workers that somebody else started.
They share a private folder: sockets of the workers and of each member, what the registry said, and
the callers' quotas.
"""
