"""Readers of the files that people download, one function a layout.

``table`` names them and the keys that a suite file may have for each. A reader is given a `Source`
and returns a `PoolTask`, which reads the files anew each time that it is gone through.
"""
