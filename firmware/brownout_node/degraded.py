"""What stands in for the node of a board whose flash or heap has failed, until the board can start anew.

The node has gone further than its promises: it must do nothing any more. Clients are refused, definitely; the reason is
told once; the flash, or the heap, is tried again now and then. Must not vote, answer a board, or persist a promise. Is
loaded only where it is needed.
"""

from .core import codec, schema
from .core.errors import JournalError, MessageError

RETRY_MS = 1000


class Degraded:
    """node: the one that it replaces. told: the number of the last event that left. has_room: may memory be used again?

    `over`: the board is to start anew.
    """

    def __init__(self, node, journal, error, told, has_room):
        self.config = node.config
        self.cluster = node.cluster
        self.board = node.board
        self.boot = node.boot
        self.clock = node.clock
        self.clock._node = self  # so that the old node's memory is free
        self._lower_ceiling(journal)
        self.now_ms = node.now_ms
        self.over = False
        self.refused = 0
        self._journal = journal
        self._is_short = isinstance(error, MemoryError)
        self._has_room = has_room
        self._handlers = {}
        self._sequence = node.now_ms << 8  # of replies: above what the node can have sent
        self._event_sequence = told
        self._messages = []
        self._events = []
        self._due_ms = self.now_ms + RETRY_MS
        reason = "memory" if self._is_short else str(error)
        self.emit(schema.DEGRADED, (reason[:64],))

    def _lower_ceiling(self, journal):
        # The clock may have raised its ceiling in the very step that could not be written: the next boot knows only
        # the one in the journal, and must not stamp below what is told here.
        try:
            packed = journal.get(schema.JOURNAL_CLOCK)
        except JournalError:
            return  # the next boot begins without a journal
        if packed is not None:
            self.clock._ceiling = codec.unpack("u", packed)[0]

    def handle(self, kind, handler):
        self._handlers[kind] = handler

    def receive(self, source, data, now_ms):
        self.now_ms = now_ms
        try:
            cluster, sender, _boot, _sequence, kind, fields = codec.decode_message(data)
        except MessageError:
            self.refused += 1
            return
        if cluster != self.cluster or source != schema.HOST or sender < schema.FIRST_CLIENT:
            return
        if kind == schema.COMMAND:
            self._refuse(sender, fields[0])
        elif kind in self._handlers:
            self._handlers[kind](sender, kind, fields)

    def _refuse(self, client, request):
        self.refused += 1
        self._sequence += 1
        status = schema.BUSY if self._is_short else schema.FULL
        fields = (client, request, status, None, 0)
        message = codec.encode_message(self.cluster, self.board, self.boot, self._sequence, schema.REPLY, fields)
        self._messages.append((client, message))

    def tick(self, now_ms):
        self.now_ms = now_ms
        if now_ms >= self._due_ms:
            self._due_ms = now_ms + RETRY_MS
            self.over = self._has_room() if self._is_short else self._is_writable()

    def _is_writable(self):
        # A boot's number may be written twice; a journal that is not valid is for the next boot to deal with.
        try:
            self._journal.open()
            if self._journal.condition == schema.JOURNAL_VALID:
                packed = self._journal.get(schema.JOURNAL_BOOT)
                if packed is not None:
                    self._journal.append([(schema.JOURNAL_BOOT, packed)])
        except JournalError:
            return False
        return True

    def emit(self, kind, fields):
        """Report an event, but none of a boot whose number may be given out again."""
        if self._event_sequence:
            self._event_sequence += 1
            stamp = self.clock.told()
            self._events.append(codec.encode_event(self.boot, self._event_sequence, self.now_ms, stamp, kind, fields))

    def take_ready(self):
        if not (self._messages or self._events):
            return None
        ready = ([], self._messages, self._events)
        self._messages = []
        self._events = []
        return ready
