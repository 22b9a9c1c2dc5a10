"""The GPU process: one device, one base model, its adapters.

``server`` is the process (``python -m vlm2vec_service.worker`` starts it), ``servicer`` answers a
front end, ``device`` runs the batches one at a time, and ``codec`` is what travels between front
end and worker. Nothing is imported here, since the front end uses ``codec`` and never imports
torch.
"""
