"""Adapter versions: what an artifact holds, where it comes from, and who gets the traffic.

``store`` is MLflow: publishing, snapshots, downloads. ``artifact`` knows a version's files,
``embedding_config`` its ``embedding.json``, ``space`` its vector space. ``cache`` keeps fetched
versions on disk, ``traffic`` promotes and rolls back, ``webhook`` verifies MLflow's notices,
``space_ready`` reads what re-embedding wrote. This package imports neither torch nor grpc.
"""
