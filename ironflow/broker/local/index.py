"""Which messages of a stream stand on which subject, so that no read has to go through all of them."""

from __future__ import annotations

from collections.abc import Iterator

from ironflow.broker.local.subjects import ONE, REST, SEPARATOR


class _Node:
    """A token of the subjects: those that continue it, and the messages on the subject that ends here."""

    __slots__ = ("children", "messages", "sequences")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.messages = 0
        self.sequences: dict[int, None] = {}


class SubjectIndex:
    """The sequences on each subject, as a tree of tokens."""

    def __init__(self) -> None:
        self._root = _Node()
        self._subjects: dict[str, dict[int, None]] = {}

    def add(self, subject: str, sequence: int) -> None:
        """Enter a message; sequences only grow."""
        node = self._root
        node.messages += 1
        for token in subject.split(SEPARATOR):
            following = node.children.get(token)
            if following is None:
                following = node.children[token] = _Node()
            node = following
            node.messages += 1
        node.sequences[sequence] = None
        self._subjects[subject] = node.sequences

    def remove(self, subject: str, sequence: int) -> None:
        """Take out a message that was entered."""
        node = self._root
        node.messages -= 1
        for token in subject.split(SEPARATOR):
            following = node.children[token]
            following.messages -= 1
            if not following.messages:
                # Nothing else hangs on it, so the whole branch goes.
                del node.children[token]
                del self._subjects[subject]
                return
            node = following
        del node.sequences[sequence]
        if not node.sequences:
            del self._subjects[subject]

    def last(self, subject: str) -> int:
        """Return the newest sequence on a subject, 0 where there is none."""
        sequences = self._subjects.get(subject)
        return next(reversed(sequences)) if sequences else 0

    def at_most(self, subject_filter: str) -> int:
        """Return a cheap upper bound of how many messages a filter selects."""
        node = self._root
        for token in subject_filter.split(SEPARATOR):
            if token in (ONE, REST):
                break
            following = node.children.get(token)
            if following is None:
                return 0
            node = following
        return node.messages

    def select(self, subject_filter: str) -> list[int]:
        """Return the sequences of all messages that a filter selects, in order."""
        found = [
            sequence
            for node in self._ends(self._root, subject_filter.split(SEPARATOR), 0)
            for sequence in node.sequences
        ]
        found.sort()
        return found

    def _ends(self, node: _Node, tokens: list[str], depth: int) -> Iterator[_Node]:
        if depth == len(tokens):
            yield node
            return
        token = tokens[depth]
        if token == REST:
            yield from _below(node)
        elif token == ONE:
            for child in node.children.values():
                yield from self._ends(child, tokens, depth + 1)
        elif token in node.children:
            yield from self._ends(node.children[token], tokens, depth + 1)


def _below(node: _Node) -> Iterator[_Node]:
    waiting = list(node.children.values())
    while waiting:
        child = waiting.pop()
        yield child
        waiting.extend(child.children.values())
