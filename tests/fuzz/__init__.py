"""Fuzzing: damaged files for every parser of foreign bytes. Type: python -m tests.fuzz --seed 0 --count 300

A parser may read a damaged file or refuse it with an `LfError` of the right exit code. It may not raise anything else,
hang, kill the process, write, run code or take 2 GB of memory.

The mutators are our own. atheris installs (34 MB), but its loop ends the process at the first finding, runs one target
per process, and its coverage does not see the C libraries that do most of the parsing; a case would be reproducible by
its saved file, not by seed. hypothesis draws values well, but has no notion of a file format.
"""
