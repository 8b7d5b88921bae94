"""Studies of `eftlocal tune`: which defaults are good, and what each way of training does. docs/tuning-study.md says.

`python -m tools.study_tune --help`. Each run is a line of a JSON Lines file; a study that was stopped goes on.
"""
