"""Runs the boards of a recorded run again, in this Python, from what they were given. See docs/replay.md.

Must not need a rig, and must not judge what a protocol did; checkers do.
"""
