"""Pictures into a folder of LanceDB, and a search for one of them.

Needs a server (`make serve`) and `pip install ./clients/python lancedb`.
"""

import os
import tempfile
from pathlib import Path

import lancedb
import pyarrow as pa

import vlm2vec

PICTURES = sorted((Path(__file__).parent / "digits").glob("*.png"))
QUERY = "a red seven above a black three"

index = lancedb.connect(tempfile.mkdtemp())
with vlm2vec.Client(os.environ.get("VLM2VEC_SERVER", "localhost:50051")) as client:
    found = client.embed(PICTURES, instruction="Represent the given image.", details=True)
    # Vectors of two versions do not compare: the name of the table says which space it is.
    space = found[0].space
    flat = pa.array([number for item in found for number in item.vector], pa.float32())
    vectors = pa.FixedSizeListArray.from_arrays(flat, len(found[0].vector))
    names = [path.name for path in PICTURES]
    table = index.create_table(f"pictures-{space}", pa.table({"file": names, "vector": vectors}))

    query = client.embed(
        QUERY,
        instruction="Find me an everyday image that matches the given caption:",
        space=space,
    )
    for hit in table.search(query).distance_type("cosine").limit(3).to_list():
        print(f"{1 - hit['_distance']:.4f}  {hit['file']}")
