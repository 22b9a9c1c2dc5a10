"""A soak: mixed load on a real server while everything around it breaks, every answer checked.

``python -m tests.soak --minutes 2 --seed 1`` prints what happens and ends with a table.
"""
