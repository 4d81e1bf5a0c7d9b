"""Runs first on a board: keeps the system's own log off the cable, which frames share. Must not fail or take long."""

import sys

if sys.platform == "esp32":
    import esp

    esp.osdebug(None)
