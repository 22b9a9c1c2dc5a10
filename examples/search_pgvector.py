"""Prints SQL that puts pictures into PostgreSQL with pgvector, and searches for one of them.

Needs a server (`make serve`) and `pip install ./clients/python`; then
`python examples/search_pgvector.py | psql DATABASE`.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import vlm2vec

PICTURES = sorted((Path(__file__).parent / "digits").glob("*.png"))
QUERY = "a red seven above a black three"


def literal(text: str) -> str:
    """Returns ``text`` as a string of SQL."""
    return "'" + text.replace("'", "''") + "'"


def vector(numbers: Iterable[float]) -> str:
    """Returns a vector as pgvector reads it."""
    return literal("[" + ",".join(f"{number:.9g}" for number in numbers) + "]")


with vlm2vec.Client(os.environ.get("VLM2VEC_SERVER", "localhost:50051")) as client:
    found = client.embed(PICTURES, instruction="Represent the given image.", details=True)
    space = found[0].space
    query = client.embed(
        QUERY,
        instruction="Find me an everyday image that matches the given caption:",
        space=space,
    )

print("CREATE EXTENSION IF NOT EXISTS vector;")
# Vectors of two versions do not compare: the column says which space each is in.
print(
    "CREATE TABLE IF NOT EXISTS pictures (file text, space text, "
    f"embedding vector({len(query)}) NOT NULL, PRIMARY KEY (space, file));"
)
for path, item in zip(PICTURES, found, strict=True):
    print(
        f"INSERT INTO pictures VALUES ({literal(path.name)}, {literal(space)}, "
        f"{vector(item.vector)}) ON CONFLICT (space, file) DO NOTHING;"
    )
print("CREATE INDEX IF NOT EXISTS nearest ON pictures USING hnsw (embedding vector_cosine_ops);")
print(
    f"SELECT round((1 - (embedding <=> {vector(query)}))::numeric, 4), file FROM pictures "
    f"WHERE space = {literal(space)} ORDER BY embedding <=> {vector(query)} LIMIT 3;"
)
