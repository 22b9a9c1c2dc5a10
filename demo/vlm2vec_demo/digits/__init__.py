"""The model that ships with the service, which knows handwritten digits in coloured ink.

``world`` draws scenes, ``words`` describes and asks about them, and ``tasks`` makes evaluation sets
of test digits, which ``suite`` writes as files. ``checkpoint`` builds the tiny Qwen2-VL, ``recipe``
trains it and its two adapters by ``losses``, and ``card`` says what came out.
``python -m vlm2vec_demo.digits --help`` lists the commands.
"""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
"""The folder that ships: ``base`` is a checkpoint, ``v1`` and ``v2`` are its adapters."""
