"""The adapter versions of each model: which there are, which are held, and who answers.

``catalog`` knows models and versions and chooses one for a request. ``residency`` has the one
answer to what state a version is in. ``loader`` brings versions into the workers, and ``fetching``
their files onto this host. ``follower`` makes all of it what the registry says, and ``shadow``
compares a version with the champion. Nothing here imports gRPC or protobuf.
"""
