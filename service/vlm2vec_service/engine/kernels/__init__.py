"""Triton's kernels of the operations in ``engine/ops``, one module for each of theirs.

Each has the functions that start them, under the names of the custom operators.
"""
