"""``python -m vlm2vec_cli``: the command ``vlm2vec``, also where it is not on the path."""

from vlm2vec_cli.main import main

main()
