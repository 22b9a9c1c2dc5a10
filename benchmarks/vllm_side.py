"""vLLM's part of `peers`: a script for the Python that has it, which may lack all that is ours.

It reads a JSON object a line from its standard input and answers each with one. The first has the
arguments of `vllm.LLM`; each further one is a list of prompts, which it embeds: token ids in
``ids``, and the files of pictures in ``images``.
"""

import json
import os
import sys
import time
from importlib import import_module
from typing import Any

from PIL import Image


def main() -> None:
    """Answers until there is no more to read."""
    # vLLM and what it starts print to the standard output: answers have a copy of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: object) -> None:
        print(json.dumps(value), file=answers, flush=True)

    # Where ours is checked and tested there is no vLLM.
    vllm: Any = import_module("vllm")
    pooling = import_module("vllm.config").PoolerConfig(seq_pooling_type="LAST")
    arguments = json.loads(sys.stdin.readline())
    model = vllm.LLM(**arguments, runner="pooling", convert="embed", pooler_config=pooling)
    answer("ready")
    for line in sys.stdin:
        prompts = []
        for one in json.loads(line):
            prompt: dict[str, Any] = {"prompt_token_ids": one["ids"]}
            if one["images"]:
                pictures = [Image.open(file).convert("RGB") for file in one["images"]]
                prompt["multi_modal_data"] = {"image": pictures}
            prompts.append(prompt)
        start = time.perf_counter()
        outputs = model.embed(prompts, use_tqdm=False)
        seconds = time.perf_counter() - start
        vectors = [list(output.outputs.embedding) for output in outputs]
        answer({"seconds": seconds, "vectors": vectors})


if __name__ == "__main__":
    main()
