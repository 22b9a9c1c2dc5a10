"""Contrastive training of adapters on the service's own backbones.

``vlm2vec train`` runs `trainer`: rows (``data``, ``sampling``) are prepared as the service prepares
them (``loader``), embedded by the service's backbone with gradients (``embedder``, ``adapter``),
and compared in a step of bounded memory (``gradcache``, ``loss``) over any number of ``processes``.
``states`` lets a killed run go on, ``tracking`` records it in MLflow. ``merged`` speeds up small
models.
"""
