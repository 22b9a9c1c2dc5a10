"""``python -m vlm2vec_service``: the command ``vlm2vec``, also where it is not on the path."""

from vlm2vec_service.cli import main

main()
