"""Settings of ``vlm2vec train``, each of which is an option. Nothing here imports torch."""

from dataclasses import dataclass

from vlm2vec_service.settings import setting


@dataclass(frozen=True)
class AdapterSettings:
    """Settings of the adapter. The defaults are VLM2Vec's (its ``src/arguments.py``)."""

    adapter: str = setting("dora", "Kind of adapter: lora or dora.")
    rank: int = setting(16, "Rank of the adapter's matrices.")
    alpha: int = setting(64, "The adapter's product is scaled by alpha / rank.")
    dropout: float = setting(0.1, "Dropout in front of the adapter.")
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

    batch: int = setting(1024, "Queries in a step, over all processes.")
    sub_batch: int = setting(64, "Queries of a step that come from one subset, together.")
    chunk: int = setting(
        8, "Inputs whose activations are in memory at a time (GradCache); the gradient does not "
        "depend on it. 0 takes the batch at once."
    )  # fmt: skip
    steps: int = setting(5000, "Optimizer steps.")
    warm_up: int = setting(100, "Steps in which the learning rate rises; then it falls to 0.")
    learning_rate: float = setting(5e-5, "The highest learning rate.")
    weight_decay: float = setting(0.0, "AdamW's weight decay.")
    clip: float = setting(1.0, "Largest norm of the gradient.")
    temperature: float = setting(0.02, "What cosines are divided by in the loss.")
    seed: int = setting(42, "Decides the order of the data, the adapter's start and dropout.")
    dtype: str = setting(
        "bfloat16", "Of the base model and the matrix products: bfloat16 or float32. The adapter "
        "and its optimizer are float32."
    )  # fmt: skip
    device: str = setting(
        "cpu", "Where to train: cpu or cuda; under torchrun each process takes its own GPU."
    )
    gradient_checkpointing: bool = setting(
        True, "Compute activations twice instead of keeping them."
    )
    held_out: int = setting(
        64, "Last rows of each subset that are not trained on, but scored: hit@1 among them."
    )
    evaluate_every: int = setting(250, "Steps between scores; the best adapter is kept.")
    save_every: int = setting(100, "Steps between states from which --resume goes on.")
    threads: int = setting(4, "Threads that read and resize images, ahead of the model.")
