"""The prompt of `brownout replay --interactive`: a board's state, one step forward, one step back.

Must not change the board; expressions are evaluated on it as it is.
"""

from __future__ import annotations

import cmd

from ..contracts import UsageError
from ..replay.follow import Follower, compiled
from .replay import parse_moment, show_place, show_state


class ReplayPrompt(cmd.Cmd):
    """step, back, goto, until, break, state, print, sent, debug, quit."""

    intro = (
        "step [N], back [N], goto STEP, until TIME, break EXPRESSION, state [PROTOCOL], print EXPRESSION, sent, quit"
    )

    def __init__(self, follower: Follower) -> None:
        super().__init__()
        self.follower = follower
        self._prompt()

    def _prompt(self) -> None:
        self.prompt = f"({self.follower.board.record.name} step {self.follower.step}) "

    def onecmd(self, line: str) -> bool:
        try:
            return super().onecmd(line)
        except (UsageError, ValueError) as error:
            self.stdout.write(f"{error}\n")
            return False
        finally:
            self._prompt()

    def _end(self) -> None:
        self.stdout.write("the recording ends here\n")

    def do_step(self, text: str) -> None:
        """step [N]: so many steps forward."""
        for _ in range(int(text or 1)):
            if not self.follower.forward():
                self._end()
                return
        show_place(self.follower)

    def do_back(self, text: str) -> None:
        """back [N]: so many steps back; the board runs again from its first boot."""
        self.follower.go_to(max(1, self.follower.step - int(text or 1)))
        show_place(self.follower)

    def do_goto(self, text: str) -> None:
        """goto STEP"""
        if not self.follower.go_to(int(text)):
            self._end()
        show_place(self.follower)

    def do_until(self, text: str) -> None:
        """until TIME: of the run, such as 12.4s"""
        if not self.follower.until(parse_moment(text)):
            self._end()
        show_place(self.follower)

    def do_break(self, text: str) -> None:
        """break EXPRESSION: to the next step that changes it or makes it true."""
        if not self.follower.until_change(text):
            self._end()
        show_place(self.follower)

    def do_state(self, text: str) -> None:
        """state [PROTOCOL]"""
        state = self.follower.state()
        if text and text not in state:
            raise UsageError(f"state {text}: there are {', '.join(state)}")
        show_state({text: state[text]} if text else state)

    def do_print(self, text: str) -> None:
        """print EXPRESSION"""
        self.stdout.write(f"{self.follower.value(compiled(text), text)!r}\n")

    def do_sent(self, _text: str) -> None:
        """sent: what the last step sent"""
        for to, data in self.follower.board.sent:
            self.stdout.write(f"to {to}: {data.hex()}\n")

    def do_quit(self, _text: str) -> bool:
        """quit"""
        return True

    do_s, do_b, do_p, do_q, do_EOF = do_step, do_back, do_print, do_quit, do_quit  # noqa: N815

    def emptyline(self) -> bool:
        self.do_step("1")
        return False
