"""Pictures into Chroma, which runs in this process, and a search for one of them.

Needs a server (`make serve`) and `pip install ./clients/python chromadb`.
"""

import os
from pathlib import Path

import chromadb

import vlm2vec

PICTURES = sorted((Path(__file__).parent / "digits").glob("*.png"))
QUERY = "a red seven above a black three"

index = chromadb.EphemeralClient()  # or chromadb.PersistentClient("folder")
with vlm2vec.Client(os.environ.get("VLM2VEC_SERVER", "localhost:50051")) as client:
    found = client.embed(PICTURES, instruction="Represent the given image.", details=True)
    # Vectors of two versions do not compare: the name of the collection says which space it is.
    space = found[0].space
    collection = index.create_collection(
        f"pictures-{space}", embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
    )
    collection.add(ids=[path.name for path in PICTURES], embeddings=[item.vector for item in found])

    query = client.embed(
        QUERY,
        instruction="Find me an everyday image that matches the given caption:",
        space=space,
    )
    hits = collection.query(query_embeddings=[query], n_results=3)
    for name, distance in zip(hits["ids"][0], hits["distances"][0], strict=True):
        print(f"{1 - distance:.4f}  {name}")
