"""The client works without the packages that it does not need."""

import subprocess
import sys

from tests.client.server import Service

BLOCKED = ("torch", "transformers", "PIL", "tqdm", "vlm2vec_service", "click", "av")


def test_text_needs_only_grpc_and_numpy(service: Service) -> None:
    code = f"""
import sys
sys.modules.update(dict.fromkeys({BLOCKED!r}))
import numpy as np
import vlm2vec
with vlm2vec.Client({service.address!r}) as client:
    print(client.embed("a cat").shape, len(list(client.stream(["a", "b"]))))
    image = vlm2vec.Input(images=[np.zeros((4, 4, 3), np.uint8)])
    for call in (lambda: client.embed(image), lambda: list(client.stream(["a"], progress=True))):
        try:
            call()
        except ImportError as error:
            print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "(12,) 2",
        "arrays need Pillow: pip install 'vlm2vec-client[extras]'",
        "progress needs tqdm: pip install 'vlm2vec-client[extras]'",
    ]
