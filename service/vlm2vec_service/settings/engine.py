"""How the engine runs."""

from dataclasses import dataclass

from vlm2vec_service.settings.field import setting


@dataclass(frozen=True)
class EngineSettings:
    """How the engine runs on its device."""

    device: str = setting("cpu", "Where to run: cpu, cuda or cuda:N.", kind="devices")
    dtype: str = setting(
        "bfloat16",
        "Arithmetic of the model: float32 or bfloat16. Vectors are always float32.",
        choices=("float32", "bfloat16"),
    )
    threads: int = setting(
        0,
        "Threads of a worker on a CPU. 0 divides the cores that the machine or container has among "
        "the server's workers; a worker by itself takes all. OMP_NUM_THREADS goes before that.",
        least=0,
        unit="THREADS",
    )
    token_budget: int = setting(
        0,
        "Tokens per batch; a longer input gets a batch of its own. "
        "0 takes what the device likes: 2048 on a CPU, 16384 elsewhere.",
        least=0,
        unit="TOKENS",
    )
    vision_batch_patches: int = setting(
        0,
        "Image patches, and pairs of audio frames, that go through a tower at once. "
        "0 takes what the device likes: 2048 on a CPU, 65536 elsewhere.",
        least=0,
    )
    vision_cache_bytes: int = setting(
        268_435_456,
        "Bytes of device memory for cached features of images, videos and audios; 0 turns it off.",
        least=0,
    )
    merged_bytes: int = setting(
        -1,
        "Bytes of device memory for the weights of busy adapters merged into the base's; "
        "0 turns merging off. -1 takes half of what is free when the base is loaded, on a CPU "
        "at most a quarter of the memory of the machine or container.",
        least=-1,
    )
    cuda_graphs: bool = setting(
        True, "Replay small batches on a GPU as one launch, recorded when their size came before."
    )
