"""Runs the command ``vlm2vec`` as ``python -m vlm2vec_cli``, also where it is not on the path."""

from vlm2vec_cli.main import main

main()
