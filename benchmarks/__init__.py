"""Side-by-side runs: ours and the alternative in one process, with the ratio.

Absolute times of a shared machine are noise; only ratios from one run are claims.
"""
