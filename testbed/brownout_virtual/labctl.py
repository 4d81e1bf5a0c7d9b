#!/usr/bin/env -S python3 -IS
"""The gateway's one command: hands its arguments to the lab that it lies in and prints the answer, JSON on one line.

Installed as <lab>/bin/labctl. `labctl help` lists the commands. Exit codes: 0 done, 1 refused, 2 no such command, 4
no lab. Must start fast, so it imports nothing that is written in Python, and must not know a single command itself.
"""

import sys
from _socket import AF_UNIX, SHUT_WR, SOCK_STREAM, socket
from posix import chdir, getcwd, write


def ask(arguments: list[str]) -> tuple[int, str]:
    connection = socket(AF_UNIX, SOCK_STREAM)
    try:
        # From inside: a socket's address is at most 108 bytes long, a folder's may be longer.
        chdir((__file__.rpartition("/")[0] or ".") + "/..")
        connection.connect("control.sock")
    except OSError as error:
        return 4, f"labctl: no lab runs in {getcwd()} ({error}): start it with `brownout lab up`\n"
    connection.sendall("\0".join(arguments).encode("utf-8", "surrogateescape"))
    connection.shutdown(SHUT_WR)
    answer = b""
    while True:
        data = connection.recv(65536)
        if not data:
            break
        answer += data
    code, _, text = answer.partition(b"\n")
    if not code:
        return 4, f"labctl: the lab in {getcwd()} ended before it answered\n"
    return int(code), text.decode("utf-8", "surrogateescape")


def main() -> int:
    code, text = ask(sys.argv[1:])
    data = text.encode("utf-8", "surrogateescape")
    while data:
        data = data[write(2 if code else 1, data) :]
    return code


if __name__ == "__main__":
    sys.exit(main())
