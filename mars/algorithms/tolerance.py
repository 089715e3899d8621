"""When two scores are equal: the one tolerance of advantages, selection, metrics and evaluation."""

SCORE_TOLERANCE = 1e-9
"""Scores, and means of scores, whose difference is at most this are equal. Absolute, in units of the score.

The same answer can get 1.75 and 1.7499999999999996: its boxes were scaled from images of two sizes. Such a difference
is no signal. Scores are at most `MAX_SCORE` = 1e6 in size (mars/types.py), where neighbouring floats are 1.2e-10
apart; so a few roundings stay below the tolerance at any size.
"""
