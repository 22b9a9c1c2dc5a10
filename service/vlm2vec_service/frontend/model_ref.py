"""Which version a caller means who writes it behind the name of the model, NAME@WHICH."""

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.versions.catalog import Catalog


def resolved(catalog: Catalog, ref: pb.ModelRef) -> pb.ModelRef:
    """Returns ``ref`` with what its name has behind an @ as its selector: an alias, a version or a
    space, in this order.

    Raises `InvalidInputError` where nothing is behind the @, or where there is a selector as well.
    """
    name, at, which = ref.name.partition("@")
    if not at or ref.name in catalog.models:
        return ref
    if not which:
        raise InvalidInputError("options.model.name", "no alias, version or space follows the @")
    if selector := ref.WhichOneof("selector"):
        raise InvalidInputError(
            f"options.model.{selector}", f"the name {ref.name!r} says which version already"
        )
    model = catalog.models.get(name)
    if model is not None and which not in model.aliases:
        if which in model.versions:
            return pb.ModelRef(name=name, version=which)
        if any(version.space == which for version in model.versions.values()):
            return pb.ModelRef(name=name, space=which)
    return pb.ModelRef(name=name, alias=which)
