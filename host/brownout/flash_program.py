"""The program that the flasher runs at a board's raw prompt: says what files there are, takes new ones, verifies.

It speaks in lines and takes base64: no byte of the stream means anything to a console. Every block is acknowledged,
since boards without flow control lose what comes while they write. Must run on any MicroPython since 1.24, in little
memory, beside whatever the interrupted firmware left.

Board to host: `f PATH SIZE SHA256` for each file and `r` (ready), in one piece; then for each order `.` a block and a
last line `ok ...`, or an error of Python.
Host to board: orders of 4 digits (length of what follows) and words. LOOK knows `x` (end) and `p LENGTH` (more program
follows: WRITE, which a board that is up to date never needs); WRITE adds `w SIZE BLOCK PATH` and its blocks, `d PATH`,
`i` (identity: cluster and board of config.json), `g CLUSTER BOARD` (format the journal), `b` (start anew).
"""

LOOK = r"""
import os, sys
from binascii import hexlify
from hashlib import sha256
_in = sys.stdin.buffer
_say = sys.stdout.write
_buffer = bytearray(1024)
_view = memoryview(_buffer)
def _hash(path):
    digest = sha256()
    size = 0
    with open(path, "rb") as file:
        while True:
            count = file.readinto(_buffer)
            if not count:
                return "%d %s" % (size, hexlify(digest.digest()).decode())
            size += count
            digest.update(_view[:count])
def _walk(folder, lines):
    for entry in os.ilistdir(folder or "."):
        path = folder + entry[0]
        if entry[1] == 0x4000:
            if path.startswith("brownout_node"):
                _walk(path + "/", lines)
        elif folder or path in ("boot.py", "main.py", "boot.mpy", "main.mpy", "config.json", "failed_starts.txt"):
            lines.append("f %s %s" % (path, _hash(path)))
    return lines
def _order_x():
    _say("ok\n")
    raise SystemExit
def _order_p(length):
    exec(_in.read(int(length)), globals())
    _say("ok\n")
def _order_b():
    _say("ok\n")
    try:
        import brownout_rom
        brownout_rom.reset("flashed")
    except ImportError:
        import machine
        if hasattr(machine, "reset"):
            machine.reset()
    raise SystemExit
"""

WRITE = r"""
import gc
from binascii import a2b_base64
if "asyncio" in sys.modules:
    sys.modules["asyncio"].new_event_loop()
gc.collect()
def _order_w(size, block, path):
    size = int(size)
    block = int(block)
    parts = path.split("/")[:-1]
    for end in range(1, len(parts) + 1):
        try:
            os.mkdir("/".join(parts[:end]))
        except OSError:
            pass
    with open(path, "wb") as file:
        while size:
            count = min(size, block)
            file.write(a2b_base64(_in.read((count + 2) // 3 * 4)))
            size -= count
            _say(".")
    _say("ok %s\n" % _hash(path))
def _order_d(path):
    os.remove(path)
    _say("ok\n")
def _order_i():
    try:
        import json
        with open("config.json") as file:
            old = json.load(file)
        _say("ok %d %d\n" % (old["cluster"], old["board"]))
    except (OSError, ValueError, KeyError, TypeError):
        _say("ok none\n")
def _order_g(cluster, board):
    for name in list(sys.modules):
        if name.startswith("brownout_node"):
            del sys.modules[name]
    gc.collect()
    from brownout_node import ports
    from brownout_node.storage.journal import format_genesis
    port = ports.load()
    format_genesis(port.flash_region(), int(cluster), int(board))
    port.release()
    _say("ok\n")
"""

SERVE = r"""
_say("\n".join(_walk("", []) + ["r\n"]))
try:
    while True:
        _words = _in.read(int(_in.read(4))).decode().split(" ")
        globals()["_order_" + _words[0]](*_words[1:])
except SystemExit:
    pass
"""
