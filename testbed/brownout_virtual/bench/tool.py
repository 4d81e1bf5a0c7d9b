#!/usr/bin/env -S python3 -IS
"""A stand-in on a bench's gateway, under the name of the tool that it stands for: its words go to the bench's daemon.

Installed as <gateway>/bin/<tool>. Output and exit codes are the daemon's. Must start fast, and must not know any tool.
"""

import sys
from _socket import AF_UNIX, SHUT_WR, SOCK_STREAM, socket
from posix import chdir, write


def main():
    folder, _, name = __file__.rpartition("/")
    connection = socket(AF_UNIX, SOCK_STREAM)
    try:
        chdir(folder + "/..")
        connection.connect("control.sock")
    except OSError as error:
        print("%s: no bench runs here: %s" % (name, error), file=sys.stderr)
        return 4
    connection.sendall("\0".join([name, *sys.argv[1:]]).encode("utf-8", "surrogateescape"))
    connection.shutdown(SHUT_WR)
    answer = b""
    while True:
        data = connection.recv(65536)
        if not data:
            break
        answer += data
    code, _, text = answer.partition(b"\n")
    while text:
        text = text[write(2 if code not in (b"0", b"3") else 1, text) :]
    return int(code or b"4")


if __name__ == "__main__":
    sys.exit(main())
