"""One command for whoever has a GPU: what is right there, how fast it is, in one table.

    make gpu                                      # or: python -m benchmarks.gpu
    make gpu ARGUMENTS="--only parity,engine"

``__main__`` runs the sections, each in a process of its own with a time limit, so that one that
fails or hangs takes none of the others with it, and writes ``gpu.json`` after each. A section is a
module here: ``kernels``, ``parity``, ``engine``, ``training``, ``startup``. It has a function
``run(options)`` that yields a `Row` as soon as it is measured; ``section`` is the process around
it. Neither grpc nor mlflow is needed.
"""
