"""Frozen into RP2 builds in place of MicroPython's own: the file system leaves the end of the flash.

The last 128 KiB are the journal's (ports/rp2.py). A file system that covers everything, as stock builds make it, is
made anew. Must not touch the journal.
"""

import rp2
import vfs

device = rp2.Flash()
device = rp2.Flash(start=0, len=(device.ioctl(4, 0) - 32) * device.ioctl(5, 0))
try:
    files = vfs.VfsLfs2(device, progsize=256)  # the hardware programs whole pages of 256 bytes
except OSError:
    vfs.VfsLfs2.mkfs(device, progsize=256)
    files = vfs.VfsLfs2(device, progsize=256)
vfs.mount(files, "/")
