"""Rung `sim`: the firmware's own core, step and journal in virtual time, deterministic from (firmware, campaign, seed).

Only transport, block device and clock are models here; protocols, checkers, campaigns, the injector and the workload
are the ones of every other rung.
"""
