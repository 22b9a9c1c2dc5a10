"""Prompts and pictures to token ids and square pictures."""

import numpy as np

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.family import CheckpointFiles, FamilyPreprocessor
from vlm2vec_service.preprocess.prepared import Draft, Media, Prepared, Request, Sources
from vlm2vec_service.preprocess.tokens import Prompt, cut_text
from vlm2vec_service.settings import Limits

IMAGE = "<image>"


class ToyPreprocessor(FamilyPreprocessor):
    """Makes a picture ``side`` by ``side`` tokens, each of one pixel."""

    reserved_text = (IMAGE,)
    takes = ("image",)

    def __init__(self, files: CheckpointFiles, limits: Limits) -> None:
        super().__init__(files, limits)
        self.side: int = files.image_config["side"]
        self.image_id: int = files.config["image_token_id"]
        self.media_token_ids = (self.image_id,)

    def placeholders(self, request: Request) -> list[str]:
        return [IMAGE] * len(request.images)

    def draft(self, prompt: Prompt, sources: Sources, embedding: EmbeddingConfig) -> Draft:
        images = sources.images
        whole = prompt.encode(prompt.text)
        ids = cut_text(whole, prompt.max_text_tokens, self.media_token_ids)
        if ids.count(self.image_id) != len(images):
            raise InvalidInputError("images", f"give one for each {IMAGE}")
        side = embedding.image.get("side", self.side)
        token_ids: list[int] = []
        starts: list[int] = []
        for token in ids:
            if token == self.image_id:
                starts.append(len(token_ids))
            token_ids += [token] * (side**2 if token == self.image_id else 1)

        def finish() -> Prepared:
            media = tuple(
                Media.of("image", np.stack([*image.resized((side, side))]), start, side**2)
                for image, start in zip(images, starts, strict=True)
            )
            return Prepared.in_sequence(token_ids, media)

        return Draft(len(token_ids), len(ids) < len(whole), finish)
