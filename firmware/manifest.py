# ruff: noqa: F821 - makemanifest.py supplies these names
# What a build of MicroPython freezes for a board, as `make FROZEN_MANIFEST=.../firmware/manifest.py` wants it.
# Frozen code runs from flash: it costs none of the heap (about 75 KB) that the same files cost from the file system.
# RP2 boards take frozen/rp2/manifest.py. What comes from micropython-lib is required by name; asyncio is part of the
# board's own manifest. umqtt and a CBOR package are not here: transport/mqtt.py and core/codec.py say why.
metadata(description="Brownout: replicas that gossip and vote", version="0.1.0")

options.defaults(board=True)
if options.board:
    include("$(PORT_DIR)/boards/manifest.py")
require("ssl")  # for brokers that speak TLS

package("brownout_node", opt=3)
module("boot.py", opt=3)
module("main.py", opt=3)
