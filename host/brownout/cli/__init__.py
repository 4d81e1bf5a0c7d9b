"""The command line: one module a noun. Maps every foreseeable failure to a message and an exit code.

0 valid or done, 1 invalid, 2 usage or configuration, 3 unknown, 4 rig failure, 130 interrupted. Must not do any work:
commands import what they need when they run, so that `brownout --help` is instant.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from ..contracts import RigError, UsageError
from . import (
    backup,
    bench,
    calibrate,
    check,
    chip,
    compare,
    console,
    explore,
    export,
    flash,
    lab,
    link,
    live,
    new,
    power,
    replay,
    rig,
    run,
    shrink,
)

USAGE, RIG_FAILURE, INTERRUPTED, CLOSED_PIPE = 2, 4, 130, 141


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="brownout", prog_name="brownout")
def brownout() -> None:
    """A hardware-level replica testbed: boards that gossip, vote, lose power and links, and a verdict on what they did.

    Exit codes: 0 valid or done, 1 invalid, 2 usage or configuration, 3 unknown, 4 rig failure, 130 interrupted.
    """


for _command in (
    run.demo,
    run.run,
    check.check,
    compare.compare,
    run.report,
    live.serve,
    live.watch,
    run.heal,
    flash.flash,
    chip.chip,
    rig.rig,
    lab.lab,
    power.power,
    link.link,
    console.console,
    bench.bench,
    explore.explore,
    shrink.shrink,
    replay.replay,
    export.export,
    export.bundle,
    calibrate.calibrate,
    backup.backup,
    backup.restore,
    new.new,
):
    brownout.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. The console script `brownout`."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = brownout.main(args=None if arguments is None else list(arguments), standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return USAGE
    except UsageError as error:
        _say(f"error: {error}")
        return USAGE
    except RigError as error:
        _say(f"rig failure: {error}")
        return RIG_FAILURE
    except BrokenPipeError:
        # Whoever read our output has gone; keep Python from complaining about it at exit. Not 0: a verdict may be lost.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(f"brownout: {text}", file=sys.stderr, flush=True)
