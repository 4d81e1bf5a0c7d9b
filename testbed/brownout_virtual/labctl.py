#!/usr/bin/env -S python3 -IS
"""The gateway's one command: hands its arguments to the lab that it lies in and prints the answer, JSON on one line.

Installed as <lab>/bin/labctl. `labctl help` lists the commands. Exit codes: 0 done, 1 refused, 2 no such command, 4
no lab. Must start fast, so it imports nothing that is written in Python, and must not know a single command itself.
"""

import sys
from _socket import AF_UNIX, SHUT_WR, SOCK_STREAM, socket
from posix import chdir, getcwd, write

NAME = __file__.rpartition("/")[2]  # labctl in a lab, linkctl on a gateway


def ask(arguments: list[str]) -> tuple[int, str]:
    connection = socket(AF_UNIX, SOCK_STREAM)
    try:
        # From inside: a socket's address is at most 108 bytes long, a folder's may be longer.
        chdir((__file__.rpartition("/")[0] or ".") + "/..")
        connection.connect("control.sock")
    except OSError as error:
        return 4, f"{NAME}: no lab runs in {getcwd()} ({error}): start it with `brownout lab up`\n"
    answer = b""
    try:
        connection.sendall("\0".join(arguments).encode("utf-8", "surrogateescape"))
        connection.shutdown(SHUT_WR)
        while data := connection.recv(65536):
            answer += data
    except OSError:
        answer = b""  # whoever was asked ended in the middle of it
    code, _, text = answer.partition(b"\n")
    if not code:
        return 4, f"{NAME}: what runs in {getcwd()} ended before it answered; did it crash, or its machine restart?\n"
    return int(code), text.decode("utf-8", "surrogateescape")


def main() -> int:
    code, text = ask(sys.argv[1:])
    data = text.encode("utf-8", "surrogateescape")
    while data:
        data = data[write(2 if code else 1, data) :]
    return code


if __name__ == "__main__":
    sys.exit(main())
