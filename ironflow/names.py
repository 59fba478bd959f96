"""Every subject, stream, bucket and consumer name, in one place.

Names that users choose (events, steps, functions) may hold any text, and a NATS subject may not. A token
keeps ASCII letters, digits, "_" and "-"; every other byte of its UTF-8 form becomes "=" and two upper-case
hex digits. What would be longer than ``LONGEST_TOKEN`` becomes "=s" and a hash. "=" never stands in front of
a lower-case letter otherwise, so an escaped name, a hashed one and our own marks ("=pass") cannot collide.
"""

from __future__ import annotations

import functools
import hashlib
import re

import msgspec

from ironflow.errors import DefinitionError, SerializationError
from ironflow.shards import Shard, check_shards, shard_number, shard_number_of, shards_of

DEFAULT_NAMESPACE = "ironflow"
LONGEST_TOKEN = 80
PASS_TOKEN = "=pass"  # noqa: S105 - a subject token, not a secret
"""Stands where a step's token stands, for the retries of a whole pass."""

RUN_TIMER = "timeout"
"""The timer that ends a run which takes too long; the timers of steps have more than one token."""

ENGINE_CONSUMER = "engine"

_ANY = "any"
"""Stands where the hash of a path or a value would: shorter than every hash."""
_PATHS = "=paths"
_PURGED = "=purged"

COMPENSATE_PREFIX = "compensate:"
"""Stands in front of a step's name in the name of its undo."""

RESERVED_ID_PREFIX = "ironflow:"
"""Event ids that start with it are made by Ironflow, so that no publisher can take the place of a start."""

_INVOKE = f"{RESERVED_ID_PREFIX}invoke:"
_DETACHED = f"{RESERVED_ID_PREFIX}invoke_async:"

Scope = tuple[str | int, ...]

_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_BASE32_PAIRS = tuple(first + second for first in _BASE32 for second in _BASE32)
_SHIFTS = tuple(range(120, -1, -10))
_LONGEST_SHOWN = 60
_REMEMBERED_NAMES = 1_000
_NAMESPACE = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")
_SAFE = re.compile(r"[A-Za-z0-9_-]{1,80}")  # as long as LONGEST_TOKEN
_WHOLE = re.compile(r"[0-9]{1,15}")
_STEP_KEY = re.compile(r"[A-Za-z0-9_=/-]+(?:\.[0-9]{1,15})?")


def escape_token(text: str) -> str:
    """Return a subject token for any text; different texts give different tokens."""
    if _SAFE.fullmatch(text):
        return text
    raw = text.encode("utf-8", "surrogatepass")
    if not raw:
        return "=e"
    escaped = _UNSAFE.sub(lambda found: b"=%02X" % found[0][0], raw).decode("ascii")
    return escaped if len(escaped) <= LONGEST_TOKEN else f"=s{digest(raw)}"


_escaped_step = functools.lru_cache(_REMEMBERED_NAMES)(escape_token)
"""Steps have the same names in each run."""


def readable(name: str) -> str:
    """Return an id that somebody asked for as a message shows it: quoted where it would not be plain, and short."""
    if len(name) > _LONGEST_SHOWN:
        return f"{name[:_LONGEST_SHOWN]!r}… ({len(name):,} characters)"
    return name if name and name.isprintable() and name == name.strip() else repr(name)


@functools.lru_cache(_REMEMBERED_NAMES)
def escape_event(name: str) -> str:
    """Return the subject tokens of an event name; its dots stay, so that subjects can be filtered by it."""
    return ".".join(escape_token(token) for token in name.split("."))


def step_token(scope: Scope, name: str) -> str:
    """Return the token that identifies a step within its run.

    Args:
        scope: the names and branch numbers of the parallels around the step, outermost first.
        name: the step's name.

    """
    if not scope:
        return _escaped_step(name)
    parts = [escape_token(str(part)) for part in scope]
    parts.append(escape_token(name))
    token = "/".join(parts)
    return token if len(token) <= LONGEST_TOKEN else f"=p{digest(token.encode())}"


def step_path(scope: Scope, name: str) -> str:
    """Return a step's name behind the parallels around it, for people: ``all[0] / pay``."""
    path = ""
    for part in scope:
        path += f"[{part}]" if isinstance(part, int) else f"{' / ' if path else ''}{part}"
    return f"{path} / {name}" if path else name


def step_key(token: str, epoch: int) -> str:
    """Return what stands for a step in subjects when it is done in an epoch of its run; 0 is the first.

    In the first epoch it is the token itself. Later ones have another token of the subject behind it.
    """
    return f"{token}.{epoch}" if epoch else token


def parse_step_key(key: str) -> tuple[str, int]:
    """Return the token and the epoch of a step's key.

    Raises:
        SerializationError: it is not such a key; whoever may write to the journal chooses the subjects there.

    """
    token, _, epoch = key.partition(".")
    return token, _whole(epoch, key) if epoch else 0


def check_step_key(key: str) -> str:
    """Return *key* where it is a step's: whoever may write to the journal may write anything in its place.

    Raises:
        SerializationError: it is not; other subjects are made of it, in which it could mean something else.

    """
    if not _STEP_KEY.fullmatch(key):
        msg = f"{readable(key)} is not the key of a step"
        raise SerializationError(msg)
    return key


def _whole(text: str, subject: str) -> int:
    if not _WHOLE.fullmatch(text):
        msg = f"{readable(subject)} has {readable(text)} where a number belongs"
        raise SerializationError(msg)
    return int(text)


def digest(data: bytes) -> str:
    """Return 128 bits of SHA-256 as 26 lower-case characters that are safe in subjects, keys and file names.

    It is base 32 of RFC 4648. ``base64.b32encode`` says the same, and takes twice as long for what each run goes by.
    """
    bits = int.from_bytes(hashlib.sha256(data).digest()[:16], "big") << 2
    return "".join([_BASE32_PAIRS[bits >> shift & 1023] for shift in _SHIFTS])


def mark(text: str) -> str:
    """Return 16 characters for any text: enough to tell apart what one run has, and small where there is much of it."""
    return digest(text.encode("utf-8", "surrogatepass"))[:16]


def wait_timer(step: str) -> str:
    """Return the name of the timer that ends a wait, unique in its run."""
    return f"wait.{step}"


def try_timer(step: str, attempt: int) -> str:
    """Return the name of the timer that ends a back-off, unique in its run."""
    return f"try.{step}.{attempt}"


def run_timer(epoch: int) -> str:
    """Return the name of the timer that ends a run which takes too long in an epoch."""
    return f"{RUN_TIMER}-{epoch}" if epoch else RUN_TIMER


def run_id(function_id: str, event_id: str) -> str:
    """Return the id of the run that this event starts of this function: always the same one."""
    return digest(f"{function_id}\0{event_id}".encode("utf-8", "surrogatepass"))


def start_event_id(function_id: str, start_id: str) -> str:
    """Return the event id behind ``client.start(function, id=start_id)``; start ids are one space for each function."""
    return f"{RESERVED_ID_PREFIX}start:{function_id}:{start_id}"


def invoke_event_id(parent: str, step: str) -> str:
    """Return the event id behind a child run, by its parent's id and the key of the parent's step."""
    return f"{_INVOKE}{parent}/{step}"


def is_invoke_event_id(event_id: str) -> bool:
    """Tell whether an event id says that a run waits for what the event starts."""
    return event_id.startswith(_INVOKE)


def detached_event_id(run: str, step: str) -> str:
    """Return the event id behind a run that another one starts and does not wait for."""
    return f"{_DETACHED}{run}/{step}"


def is_detached_event_id(event_id: str) -> bool:
    """Tell whether an event id is that of an event which a run publishes to start another."""
    return event_id.startswith(_DETACHED)


class Names(msgspec.Struct, frozen=True):
    """All names of one namespace.

    Args:
        namespace: prefixes every subject, stream and bucket, so that several environments share one NATS account.
        shards: into how many its journal, tasks and timers are divided; see :mod:`ironflow.shards`. What concerns
            none of them has the same name whatever the number is.

    Raises:
        DefinitionError: the namespace is not a lower-case letter followed by up to 31 of ``a-z 0-9 _ -``, or the
            number of shards is not possible.

    """

    namespace: str = DEFAULT_NAMESPACE
    shards: int = 1

    def __post_init__(self) -> None:
        if not _NAMESPACE.fullmatch(self.namespace):
            msg = (
                f"namespace {self.namespace!r} is not allowed; use a lower-case letter followed by up to 31 "
                "lower-case letters, digits, '_' or '-'"
            )
            raise DefinitionError(msg)
        check_shards(self.shards)

    # Streams and buckets

    @property
    def all_shards(self) -> tuple[Shard, ...]:
        """The shards, which have the streams of tasks, records and timers."""
        return shards_of(self.namespace, self.shards)

    def shard_of(self, run: str) -> Shard:
        """The shard of a run."""
        return self.all_shards[shard_number(run, self.shards) if self.shards > 1 else 0]

    def shard_behind(self, subject: str) -> Shard:
        """The shard of the subject of a task, a record or a timer."""
        return self.all_shards[shard_number_of(subject)]

    @property
    def shard_streams(self) -> tuple[str, ...]:
        """The streams of all shards."""
        return tuple(stream for shard in self.all_shards for stream in (shard.tasks, shard.journal, shard.timers))

    @property
    def consumed_streams(self) -> tuple[str, ...]:
        """The streams that engines consume."""
        return (self.events, *(stream for shard in self.all_shards for stream in (shard.journal, shard.timers)))

    @property
    def events(self) -> str:
        """The stream of published events."""
        return f"{self.namespace.upper()}_EVENTS"

    @property
    def runs_bucket(self) -> str:
        """The bucket of run states."""
        return f"{self.namespace}_runs"

    @property
    def waits_bucket(self) -> str:
        """The bucket of open waits for events."""
        return f"{self.namespace}_waits"

    @property
    def functions_bucket(self) -> str:
        """The bucket of function definitions."""
        return f"{self.namespace}_functions"

    @property
    def engines_bucket(self) -> str:
        """The bucket of what engines settle among themselves."""
        return f"{self.namespace}_engines"

    def _suffix(self, run: str) -> str:
        return "" if self.shards == 1 else self.shard_of(run).suffix

    # Subjects of events, tasks and timers

    def event(self, name: str) -> str:
        """The subject of an event."""
        return f"{self.namespace}.events.{escape_event(name)}"

    @property
    def every_event(self) -> str:
        """The filter of all events."""
        return f"{self.namespace}.events.>"

    @property
    def every_longer_reserved_event(self) -> str:
        """The filter of reserved events whose names have more than two parts; there are none."""
        return f"{self.namespace}.events.ironflow.*.>"

    def task(self, queue: str, run: str, number: int) -> str:
        """The subject of the task for pass *number* of a run."""
        return f"{self.namespace}.tasks{self._suffix(run)}.{queue}.{run}.{number}"

    def parse_task(self, subject: str) -> tuple[str, int]:
        """Return the run and the pass of a task's subject."""
        *_, run, number = subject.split(".")
        return run, int(number)

    def task_number(self, subject: str, sequence: int) -> int:
        """Return a number that no other task of the namespace has; *sequence* is its place in its stream."""
        return sequence if self.shards == 1 else sequence * self.shards + shard_number_of(subject)

    def tasks_of_run(self, queue: str, run: str) -> str:
        """The filter of all tasks of a run."""
        return f"{self.namespace}.tasks{self._suffix(run)}.{queue}.{run}.>"

    def timer(self, due_ms: int, run: str, epoch: int, timer: str) -> str:
        """The subject of a schedule. Its 30-second bucket tells an overdue one.

        The run stands first: the server looks through all that differ in front of what a filter names, under a lock.
        """
        return f"{self.namespace}.timers{self._suffix(run)}.{run}.{epoch}.{due_ms // 30_000}.{timer}"

    def timers_of_run(self, run: str) -> str:
        """The filter of all schedules of a run."""
        return f"{self.namespace}.timers{self._suffix(run)}.{run}.>"

    def timers_of_epoch(self, run: str, epoch: int) -> str:
        """The filter of the schedules that were set in one epoch of a run."""
        return f"{self.namespace}.timers{self._suffix(run)}.{run}.{epoch}.>"

    def fired(self, run: str, timer: str) -> str:
        """The subject that a schedule delivers to."""
        return f"{self.namespace}.fired{self._suffix(run)}.{run}.{timer}"

    # Subjects of the journal

    def _journal(self, queue: str, run: str) -> str:
        if self.shards == 1:  # each record of each step comes by here
            return f"{self.namespace}.journal.{queue}.{run}"
        return f"{self.namespace}.journal{self._suffix(run)}.{queue}.{run}"

    def journal_of_run(self, queue: str, run: str, kind: str = "") -> str:
        """The filter of everything recorded of a run, or of one kind ("wait", "step", …) of it."""
        return f"{self._journal(queue, run)}.{kind}.>" if kind else f"{self._journal(queue, run)}.>"

    def journal_steps(self, queue: str, run: str) -> str:
        """The filter of the results of all steps of a run."""
        return f"{self._journal(queue, run)}.step.>"

    def journal_waits(self, queue: str, run: str) -> str:
        """The filter of everything that a run has ever waited for."""
        return f"{self._journal(queue, run)}.wait.>"

    def journal_input(self, queue: str, run: str) -> str:
        """The subject of a run's triggering event."""
        return f"{self._journal(queue, run)}.input"

    def journal_step(self, queue: str, run: str, step: str) -> str:
        """The subject of a step's result."""
        return f"{self._journal(queue, run)}.step.{step}"

    def journal_wait(self, queue: str, run: str, step: str) -> str:
        """The subject of what a step waits for."""
        return f"{self._journal(queue, run)}.wait.{step}"

    def journal_try(self, queue: str, run: str, step: str, attempt: int) -> str:
        """The subject of a failed attempt that will be tried again."""
        return f"{self._journal(queue, run)}.try.{step}.{attempt}"

    def journal_due(self, queue: str, run: str, step: str, attempt: int) -> str:
        """The subject of the fact that the back-off after an attempt is over."""
        return f"{self._journal(queue, run)}.due.{step}.{attempt}"

    def journal_closed(self, queue: str, run: str, step: str) -> str:
        """The subject of the fact that nothing waits any more for the end of a wait."""
        return f"{self._journal(queue, run)}.closed.{step}"

    def journal_retry(self, queue: str, run: str, epoch: int) -> str:
        """The subject of the fact that a failed run goes on, in that epoch."""
        return f"{self._journal(queue, run)}.retry.{epoch}"

    def journal_began(self, queue: str, run: str, number: int, count: int) -> str:
        """The subject of the fact that a worker began pass *number* after others had."""
        return f"{self._journal(queue, run)}.began.{number}.{count}"

    def journal_excused(self, queue: str, run: str, number: int, count: int) -> str:
        """The subject of the fact that this worker handed the pass back, and did not die of it."""
        return f"{self._journal(queue, run)}.excused.{number}.{count}"

    def journal_outcome(self, queue: str, run: str, number: int) -> str:
        """The subject of how pass *number* ended."""
        return f"{self._journal(queue, run)}.outcome.{number}"

    # Keys

    def run_key(self, run: str) -> str:
        """The subject behind the key of a run's state."""
        return f"$KV.{self.runs_bucket}.{run}"

    def purged_key(self, number: int) -> str:
        """The subject behind the key of a list of runs that were deleted; no run has such an id."""
        return f"$KV.{self.runs_bucket}.{_PURGED}.{number}"

    @property
    def every_purged(self) -> str:
        """The filter of the lists of runs that were deleted."""
        return f"$KV.{self.runs_bucket}.{_PURGED}.*"

    def is_purged_key(self, subject: str) -> bool:
        """Tell whether a subject of the runs bucket is that of such a list rather than that of a run."""
        return subject.startswith(f"$KV.{self.runs_bucket}.{_PURGED}.")

    def wait_key(self, event: str, path: str | None, value: str | None, run: str, step: str) -> str:
        """The subject behind the key of an open wait for an event.

        Args:
            event: the event's name.
            path: where in its data to look; None where any event of that name will do.
            value: the canonical JSON of what must stand there.
            run: the run that waits.
            step: the token of its step.

        """
        return f"{self._waits_for(event, path, value)}.{run}.{step}"

    def waits_for(self, event: str, path: str | None, value: str | None) -> str:
        """The filter of all open waits that an event ends which has *value* at *path*."""
        return f"{self._waits_for(event, path, value)}.*.>"

    def wait_path_key(self, event: str, path: str | None) -> str:
        """The subject behind the key that says: there are waits for this event which look at this path."""
        return f"$KV.{self.waits_bucket}.{_PATHS}.{escape_token(event)}.{_hash_or_any(path)}"

    @property
    def wait_paths(self) -> str:
        """The filter of the paths of all events."""
        return f"$KV.{self.waits_bucket}.{_PATHS}.>"

    def _waits_for(self, event: str, path: str | None, value: str | None) -> str:
        return f"$KV.{self.waits_bucket}.{escape_token(event)}.{_hash_or_any(path)}.{_hash_or_any(value)}"

    def function_key(self, function_id: str) -> str:
        """The subject behind the key of a function's definition."""
        return f"$KV.{self.functions_bucket}.{escape_token(function_id)}"

    def duty_key(self, duty: str) -> str:
        """The subject behind the key that says which engine has a duty."""
        return f"$KV.{self.engines_bucket}.{duty}"

    @property
    def engine_canary(self) -> str:
        """The subject that engines write to in order to see whether they could write at all."""
        return f"$KV.{self.engines_bucket}.canary"

    # Core NATS: requests and hints, nothing that must arrive

    def api(self, verb: str) -> str:
        """The subject of a request to the engine."""
        return f"{self.namespace}.api.{verb}"

    def ended(self, run: str) -> str:
        """The hint that a run has ended."""
        return f"{self.namespace}.ended.{escape_token(run)}"

    @property
    def every_end(self) -> str:
        """The filter of the hints that any run has ended."""
        return f"{self.namespace}.ended.*"

    def cancelled(self, run: str) -> str:
        """The hint to all workers that the engine has ended a run from outside."""
        return f"{self.namespace}.cancel.{run}"

    @property
    def every_cancel(self) -> str:
        """The filter of the hints that the engine has ended any run from outside."""
        return f"{self.namespace}.cancel.*"

    def worker_ping(self, worker: str, connection: str) -> str:
        """The subject that a worker listens on for as long as a connection of it ("work" or "leases") stands."""
        return f"{self.namespace}.worker.{escape_token(worker)}.{connection}"

    @property
    def every_worker_ping(self) -> str:
        """The filter of what workers listen on for as long as a connection of theirs stands."""
        return f"{self.namespace}.worker.*.*"

    def told(self, queue: str, worker: str) -> str:
        """The hint to a worker how a wait has ended that a pass of this queue lingers for."""
        return f"{self.namespace}.told.{queue}.{escape_token(worker)}"

    def every_told(self, queue: str = "*") -> str:
        """The filter of the hints how waits have ended that passes of a queue linger for; default of any queue."""
        return f"{self.namespace}.told.{queue}.*"

    def claims(self, queue: str) -> str:
        """The hint to all engines that a worker has taken tasks of a queue, or has done with them."""
        return f"{self.namespace}.claims.{queue}"

    @property
    def every_claim(self) -> str:
        """The filter of the hints about tasks of any queue."""
        return self.claims("*")

    @property
    def ask_for_claims(self) -> str:
        """The hint to all workers that an engine does not know what they have taken."""
        return f"{self.namespace}.ask.claims"

    @property
    def worker_census(self) -> str:
        """The request that every worker answers with what it is and does."""
        return f"{self.namespace}.workers"


def _hash_or_any(text: str | None) -> str:
    return _ANY if text is None else digest(text.encode("utf-8", "surrogatepass"))


def bucket_stream(bucket: str) -> str:
    """Return the stream behind a key-value bucket (NATS ADR-8)."""
    return f"KV_{bucket}"


_OF_STEPS = frozenset({"step", "wait", "closed"})
_OF_ATTEMPTS = frozenset({"try", "due"})
_KIND_AT = 4


class JournalAddress(msgspec.Struct, frozen=True):
    """What a journal subject says: whose record it is and of which kind."""

    queue: str
    run: str
    kind: str
    rest: tuple[str, ...] = ()

    @property
    def step(self) -> str:
        """The key of the step that the record is about; empty where it is about none."""
        if self.kind in _OF_ATTEMPTS:
            return ".".join(self.rest[:-1])
        return ".".join(self.rest) if self.kind in _OF_STEPS else ""

    @property
    def number(self) -> int:
        """The number at its end: of an attempt, a pass or an epoch.

        Raises:
            SerializationError: there is none.

        """
        return self.number_at(-1)

    def number_at(self, place: int) -> int:
        """Return the number at a place behind the kind.

        Raises:
            SerializationError: there is none.

        """
        shown = ".".join((self.kind, *self.rest))
        return _whole(self.rest[place] if self.rest else "", shown)


def parse_journal(subject: str) -> JournalAddress:
    """Read a journal subject back into its parts.

    Raises:
        SerializationError: it has too few of them; whoever may write to the journal chooses the subjects there.

    """
    tokens = subject.split(".")
    if len(tokens) <= _KIND_AT:
        msg = f"{readable(subject)} is not the subject of a record"
        raise SerializationError(msg)
    return JournalAddress(queue=tokens[2], run=tokens[3], kind=tokens[4], rest=tuple(tokens[5:]))
