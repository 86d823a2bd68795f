"""Kill lf at random moments and compare what the same command then makes. Type: python -m tests.interruption --seed 0

Each run is a process of its own, forked from one that has imported everything, so that a moment is one of the work and
not of the imports.
"""
