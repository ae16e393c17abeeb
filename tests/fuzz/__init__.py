"""Fuzzing: random files, texts and templates, each made from a seed.

A case is a function (rng, folder): it makes its input from `rng`, writes files into the empty `folder`, and raises if
pyllm does anything but answer or refuse with an ordinary exception that names the place. The tests run a few seconds of
each; `python -m tests.fuzz` (`make fuzz`) runs for as long as it is told.
"""
