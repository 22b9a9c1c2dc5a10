"""Contrastive training of adapters on the service's own backbones."""
