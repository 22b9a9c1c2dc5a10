"""The model that ships with the service: handwritten digits in coloured ink.

``world`` draws scenes, ``words`` describes and asks about them, ``tasks`` makes evaluation sets of
test digits, ``checkpoint`` builds the tiny Qwen2-VL, ``recipe`` trains it and its two adapters.
``python -m vlm2vec_training.digits`` runs the recipe.
"""
