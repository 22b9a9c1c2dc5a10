"""``vlm2vec adapters``: what a model owner does with versions, all of it plain MLflow.

``group`` opens the registry; ``publish``, ``show`` and ``traffic`` hold the commands.
"""

from vlm2vec_cli.adapters import publish, show, traffic
from vlm2vec_cli.adapters.group import adapters

__all__ = ["adapters", "publish", "show", "traffic"]
