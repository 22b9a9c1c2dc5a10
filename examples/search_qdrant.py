"""Pictures into Qdrant, which runs in this process, and a search for one of them.

Needs a server (`make serve`) and `pip install ./clients/python qdrant-client`.
"""

import os
from pathlib import Path

from qdrant_client import QdrantClient, models

import vlm2vec

PICTURES = sorted((Path(__file__).parent / "digits").glob("*.png"))
QUERY = "a red seven above a black three"

index = QdrantClient(":memory:")  # or QdrantClient(path="folder"), or a server's url=
with vlm2vec.Client(os.environ.get("VLM2VEC_SERVER", "localhost:50051")) as client:
    found = client.embed(PICTURES, instruction="Represent the given image.", details=True)
    # Vectors of two versions do not compare: the name of the collection says which space it is.
    space = found[0].space
    index.create_collection(
        f"pictures-{space}",
        models.VectorParams(size=len(found[0].vector), distance=models.Distance.COSINE),
    )
    points = [
        models.PointStruct(id=number, vector=item.vector.tolist(), payload={"file": path.name})
        for number, (path, item) in enumerate(zip(PICTURES, found, strict=True))
    ]
    index.upsert(f"pictures-{space}", points)

    query = client.embed(
        QUERY,
        instruction="Find me an everyday image that matches the given caption:",
        space=space,
    )
    for hit in index.query_points(f"pictures-{space}", query.tolist(), limit=3).points:
        print(f"{hit.score:.4f}  {hit.payload['file']}")
