"""THE order of effects, used by the board's shell and by the simulator alike.

What a replica promises must be durable before anybody hears of it (etcd raft's Ready contract): persist, then send,
then emit. Must not know what the effects mean, and must not reorder or merge them.
"""


def step(node, journal, send, emit, after=None):
    """Carry out what `node` made ready; return whether there was anything.

    journal.append(records) returns once the records are durable, all or none; it raises JournalError, and then nothing
    of this step has left. send(to, data) takes a board id or a group and one message; emit(data) one event.
    after(point), where given, is told schema.AFTER_PERSIST and schema.AFTER_SEND as each is done (traps hang on it).
    """
    ready = node.take_ready()
    if ready is None:
        return False
    records, messages, events = ready
    if records:
        journal.append(records)
        if after is not None:
            after(1)  # schema.AFTER_PERSIST
    for to, data in messages:
        send(to, data)
    if messages and after is not None:
        after(2)  # schema.AFTER_SEND
    for data in events:
        emit(data)
    return True
