"""A model family from outside the service's package: two modules here, one row in the table."""

from vlm2vec_service.backbones import Family

ROW = Family(
    preprocessor="tests.unit.toy_family.preprocess:ToyPreprocessor",
    backbone="tests.unit.toy_family.model:Toy",
    image_placeholder="<image>",
    image_settings=frozenset({"side"}),
    targets=("q_proj", "down_proj", "project"),
)
