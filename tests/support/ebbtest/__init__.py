"""Drivers for tests that start real programs: standard library only, loopback only, every wait has a deadline.

Read first: case.py (PairCase, what a test inherits) and programs.py (Program, one started process tree).
"""
