"""Board entry: config.json -> port -> run. After three failed starts in a row: safe mode.

In safe mode the board says what failed, on the console and as an event on the cable, and stays at its prompt, so that
it can be flashed; the next reset tries once more. Ctrl-C leads to the prompt at any time. A start has failed if it
ended with an error in its first seconds; only then something is written. Must not depend on anything of brownout_node
being whole: that is what may have failed.
"""

import sys

FAILURES = "failed_starts.txt"  # one line for each failed start: what was wrong
MOST_FAILURES = 3


def failures():
    try:
        with open(FAILURES) as file:
            return file.read().split("\n")
    except OSError:
        return []


def note(lines):
    with open(FAILURES, "w") as file:
        file.write("\n".join(lines))


def healthy():
    import os

    if failures():
        os.remove(FAILURES)


def start():
    import json

    from brownout_node import ports, shell

    with open("config.json") as file:
        document = json.load(file)
    shell.run(document, ports.load(), healthy)


def safe_mode(reason):
    print("brownout: safe mode:", reason)
    try:
        from brownout_node.core import codec, schema
        from brownout_node.transport import serial

        event = codec.encode_event(0, 1, 0, 0, schema.SAFE_MODE, (reason[:64],))
        sys.stdout.buffer.write(serial.encode_to_host(serial.events_payload(0, event)))
    except Exception as error:  # the firmware is not whole; the text above must do
        print("brownout: no event:", error)


def restart():
    import machine

    if hasattr(machine, "reset"):
        machine.reset()
    sys.exit(1)  # the unix port: its supervisor starts it again


def main():
    lines = failures()
    if len(lines) >= MOST_FAILURES:
        note(lines[-MOST_FAILURES + 1 :])
        safe_mode(lines[-1])
        return
    try:
        start()
    except KeyboardInterrupt:
        print("brownout: interrupted; this is the prompt")
    except Exception as error:  # of whatever kind: a board that cannot start must come to safe mode
        sys.print_exception(error)
        note(lines + [("%s: %s" % (type(error).__name__, error)).replace("\n", " ")])
        restart()


main()
