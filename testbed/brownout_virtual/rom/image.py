"""Makes or reads the LittleFS of a flash image; run by MicroPython on the host: image.py make|read IMAGE BLOCKS.

`make` takes {name: content in hex} as JSON on standard input, `read` prints the same. The image must exist and be
erased. Must not be used on the image of a running board.
"""

import json
import os
import sys
from binascii import hexlify, unhexlify

import vfs


class Device:
    """The first `blocks` blocks of a file, with the geometry that rom.py mounts."""

    def __init__(self, path, blocks):
        self._file = open(path, "r+b")
        self._blocks = blocks

    def readblocks(self, block, buf, offset):
        self._file.seek(block * 4096 + offset)
        self._file.readinto(buf)

    def writeblocks(self, block, buf, offset):
        self._file.seek(block * 4096 + offset)
        self._file.write(buf)

    def ioctl(self, operation, argument):
        if operation == 4:
            return self._blocks
        if operation == 5:
            return 4096
        if operation == 6:
            self._file.seek(argument * 4096)
            self._file.write(b"\xff" * 4096)
        return 0


def make_folders(name):
    folders = name.split("/")[:-1]
    for depth in range(1, len(folders) + 1):
        path = "/image/" + "/".join(folders[:depth])
        try:
            os.stat(path)
        except OSError:
            os.mkdir(path)


def write(files):
    for name in sorted(files):
        make_folders(name)
        with open("/image/" + name, "wb") as file:
            file.write(unhexlify(files[name]))


def read(folder, files):
    for entry in os.ilistdir("/image/" + folder):
        name = folder + entry[0]
        if entry[1] == 0x4000:
            read(name + "/", files)
        else:
            with open("/image/" + name, "rb") as file:
                files[name] = hexlify(file.read()).decode()
    return files


def main(action, path, blocks):
    device = Device(path, blocks)
    if action == "make":
        vfs.VfsLfs2.mkfs(device, progsize=256, readsize=256)
    vfs.mount(vfs.VfsLfs2(device, progsize=256, readsize=256), "/image")
    if action == "make":
        write(json.loads(sys.stdin.read()))
        vfs.umount("/image")
    else:
        print(json.dumps(read("", {})))


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
