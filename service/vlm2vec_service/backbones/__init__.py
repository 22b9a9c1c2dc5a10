"""The model families, a folder each, and the table of them.

A family's folder holds ``preprocess`` (prompts and pictures to token ids and pixels; it never
imports torch), ``model`` (the same to hidden states; it never imports grpc) and whatever else only
that family needs. ``table`` has one row for each, and is all that other packages import: adding a
family touches nothing but its folder and its row.
"""

from vlm2vec_service.backbones.table import FAMILIES, Family, family_of, load_preprocessor

__all__ = ["FAMILIES", "Family", "family_of", "load_preprocessor"]
