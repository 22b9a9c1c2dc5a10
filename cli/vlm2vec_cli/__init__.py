"""The command ``vlm2vec``: a module for each of its commands, and nothing that computes.

A module holds a command's options and its help, and hands what was given to the package that does
the work: ``serve`` and ``embed`` to ``vlm2vec_service``, ``train`` to ``vlm2vec_training``,
``evaluate`` to ``vlm2vec_evaluation``, ``demo`` to ``vlm2vec_demo``, and ``adapters`` to
``vlm2vec_registry``. ``parse`` has the options that several commands share. What takes seconds to
import is imported when a command runs, so that ``--help`` is quick. No other package imports this
one.
"""
