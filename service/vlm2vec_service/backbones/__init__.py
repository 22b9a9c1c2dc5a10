"""The model families, a folder each, and the table of them.

A family's folder has two modules. ``preprocess`` has its subclass of `FamilyPreprocessor`, from
prompts and pictures to token ids and pixels; it never imports torch. ``model`` has its subclass of
`Backbone`, from token ids and pixels to hidden states; it never imports grpc. ``table`` has one
row for each family, and serving, training and evaluation ask nothing but the table: to add a
family is to add its folder and its row. ``qwen_vl`` has what three families share.
"""

from vlm2vec_service.backbones.table import (
    FAMILIES,
    Family,
    backbone_name,
    check_embedding,
    family_of,
    load_preprocessor,
    read_embedding,
)

__all__ = [
    "FAMILIES",
    "Family",
    "backbone_name",
    "check_embedding",
    "family_of",
    "load_preprocessor",
    "read_embedding",
]
