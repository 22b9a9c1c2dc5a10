"""Settings of ``vlm2vec train``, each of which is an option. Nothing here imports torch."""

from dataclasses import dataclass

from vlm2vec_service.settings import count, setting


@dataclass(frozen=True)
class AdapterSettings:
    """Settings of the adapter. The defaults are VLM2Vec's (its ``src/arguments.py``)."""

    adapter: str = setting("dora", "Kind of adapter.", choices=("lora", "dora"))
    rank: int = count(16, "Rank of the adapter's matrices.")
    alpha: int = count(64, "The adapter's product is scaled by alpha / rank.")
    dropout: float = setting(0.1, "Dropout in front of the adapter.", least=0, most=1)
    targets: str = setting(
        "", "Names of the linear layers that get an adapter, with commas; a name that the model "
        "lacks is skipped. Empty takes those that VLM2Vec trains."
    )  # fmt: skip
    image: str = setting(
        "", "What embedding.json says of pictures, as KEY=NUMBER with commas: max_pixels=1003520 "
        "is upstream's for Qwen2-VL, num_crops=4 its for Phi-3.5-vision. Empty leaves the "
        "checkpoint's."
    )  # fmt: skip


@dataclass(frozen=True)
class TrainSettings:
    """Settings of the training. The defaults are VLM2Vec-V2's recipe."""

    batch: int = count(1024, "Queries in a step, over all processes.")
    sub_batch: int = count(64, "Queries of a step that come from one subset, together.")
    chunk: int = setting(
        8, "Inputs whose activations are in memory at a time (GradCache); the gradient does not "
        "depend on it. 0 takes the batch at once.", least=0, unit="INPUTS"
    )  # fmt: skip
    steps: int = count(5000, "Optimizer steps.")
    warm_up: int = setting(
        100, "Steps in which the learning rate rises; then it falls to 0.", least=0
    )
    learning_rate: float = setting(5e-5, "The highest learning rate.", least=0)
    weight_decay: float = setting(0.0, "AdamW's weight decay.", least=0)
    clip: float = setting(1.0, "Largest norm of the gradient.", least=0)
    temperature: float = setting(0.02, "What cosines are divided by in the loss.", least=1e-6)
    seed: int = setting(
        42, "Decides the order of the data, the adapter's start and dropout.", least=0
    )
    dtype: str = setting(
        "bfloat16", "Of the base model and the matrix products. The adapter and its optimizer are "
        "float32.", choices=("bfloat16", "float32"),
    )  # fmt: skip
    device: str = setting(
        "cpu",
        "Where to train: cpu or cuda; under torchrun each process takes its own GPU.",
        kind="devices",
    )
    gradient_checkpointing: bool = setting(
        True, "Compute activations twice instead of keeping them."
    )
    held_out: int = setting(
        64,
        "Last rows of each subset that are not trained on, but scored: hit@1 among them.",
        least=0,
        unit="ROWS",
    )
    evaluate_every: int = count(250, "Steps between scores; the best adapter is kept.")
    save_every: int = count(100, "Steps between states from which --resume goes on.")
    threads: int = count(4, "Threads that read and resize images, ahead of the model.")
