"""Work on files, without a server: ``vlm2vec embed``, and rows for training and evaluation.

``embed`` is the command, with the engine in its own process; ``lines`` reads what each line of its
input asks for, ``ahead`` prepares and embeds any number of inputs (an evaluation's, too), and
``outputs`` writes the file of vectors. ``rows`` reads parquet and JSON lines, and ``mmeb`` makes
prompts of the texts of the MMEB data sets.
"""
