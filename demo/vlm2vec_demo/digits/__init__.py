"""The model that ships with the service: handwritten digits in coloured ink.

``world`` draws scenes, ``words`` describes and asks about them, ``tasks`` makes evaluation sets of
test digits, ``checkpoint`` builds the tiny Qwen2-VL, ``recipe`` trains it and its two adapters, ``card``
says what came out. ``python -m vlm2vec_demo.digits --help`` lists the commands.
"""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
"""The folder of what ships: ``base`` is a checkpoint, ``v1`` and ``v2`` are its adapters."""
