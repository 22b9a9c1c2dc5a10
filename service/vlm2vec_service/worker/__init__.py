"""The GPU process: one device, one base model, its adapters.

``server`` is the process (it imports torch; ``python -m vlm2vec_service.worker`` starts it);
``supervisor`` runs in the front end, starts the process, watches and restarts it; ``codec`` is
what travels between the two. Nothing is imported here, since the front end never imports torch.
"""
