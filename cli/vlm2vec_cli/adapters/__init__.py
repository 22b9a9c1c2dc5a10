"""The commands ``vlm2vec adapters``, by which a model owner publishes and rolls out versions.

``group`` opens the registry, ``check`` is what an adapter has to pass; ``import_``, ``publish``,
``show`` and ``traffic`` hold the commands. What they do to the registry is plain MLflow, which the
MLflow UI does as well.
"""

from vlm2vec_cli.adapters import import_, publish, show, traffic
from vlm2vec_cli.adapters.group import adapters

__all__ = ["adapters", "import_", "publish", "show", "traffic"]
