# ruff: noqa: F821 - makemanifest.py supplies these names
# For RP2 boards: as ../../manifest.py, but with a _boot.py that leaves the end of the flash to the journal.
include("../../manifest.py", board=False)
freeze("$(PORT_DIR)/modules", ("rp2.py",))
include("$(MPY_DIR)/extmod/asyncio")
module("_boot.py")
