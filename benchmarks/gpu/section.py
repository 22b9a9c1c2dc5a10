"""Runs one section and prints its rows, a line of JSON each, as soon as they are known.

``python -m benchmarks.gpu.section NAME OPTIONS``, where the options are a JSON object.
"""

import importlib
import json
import sys

from benchmarks.gpu.rows import Options


def main() -> None:
    """Runs the section that the command line names."""
    name, options = sys.argv[1], Options(**json.loads(sys.argv[2]))
    # Rows alone go to the standard output: a library that prints must not be read as one.
    rows, sys.stdout = sys.stdout, sys.stderr
    for row in importlib.import_module(f"benchmarks.gpu.{name}").run(options):
        print(row.to_json(), file=rows, flush=True)


if __name__ == "__main__":
    main()
