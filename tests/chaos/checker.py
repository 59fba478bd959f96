"""Proves, from what was collected after everything healed, that nothing was lost, doubled or early.

Each check is a claim about the whole history, and yields what contradicts it. All are pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from ironflow.names import COMPENSATE_PREFIX, step_token
from tests.chaos.history import History, Recorded
from tests.chaos.programs import ExpectedStep, child_run, output_of

CLOCK_SLACK_MS = 5.0
"""Server and processes read one clock, through different calls, and the server's times are rounded down."""


class Violation(msgspec.Struct, frozen=True):
    """Something that must not be."""

    claim: str
    subject: str
    detail: str


Check = Callable[[History], Iterator[Violation]]


def check(history: History) -> list[Violation]:
    """Return everything that contradicts the guarantees."""
    return [violation for each in CHECKS for violation in each(history)]


def no_acknowledged_event_is_lost(history: History) -> Iterator[Violation]:
    for each in history.submitted:
        if history.events.get(each.sequence) != each.event_id:
            found = history.events.get(each.sequence, "nothing")
            yield Violation("no acknowledged event is lost", each.event_id, f"at {each.sequence} stands {found}")


def every_run_ends_once_as_the_model_says(history: History) -> Iterator[Violation]:
    claim = "every run ends once, as the model says"
    for run, expected in history.expected.items():
        ends, state = history.ends.get(run, []), history.states.get(run)
        # A run that was refused at its start has no queue, and so no place in the journal.
        refused = state is not None and not state.queue
        if len(ends) != (0 if refused else 1):
            yield Violation(claim, run, f"{len(ends)} outcomes end it; its state is {state and state.status}")
        elif ends and ends[0].record["status"] != expected.status:
            error = ends[0].record.get("error")
            yield Violation(claim, run, f"{ends[0].record['status']} instead of {expected.status}: {error}")
        if state is None or state.status != expected.status:
            yield Violation(claim, run, f"its state is {state and state.status} instead of {expected.status}")
        elif state.compensation != expected.compensation:
            yield Violation(claim, run, f"its undos are {state.compensation} instead of {expected.compensation}")
    for run in history.states.keys() - history.expected.keys():
        yield Violation(claim, run, "no acknowledged event has started it")


def every_output_is_made_of_the_recorded_results(history: History) -> Iterator[Violation]:
    for run, ends in history.ends.items():
        if run not in history.programs or ends[0].record["status"] != "completed":
            continue
        recorded = {token: fact.record.get("output") for token, fact in history.steps_by_run.get(run, {}).items()}
        output = output_of(history.programs[run].program, recorded)
        if ends[0].record.get("output") != output:
            detail = f"{ends[0].record.get('output')} instead of {output}"
            yield Violation("every output is made of the recorded results", run, detail)


def every_parent_has_what_its_child_came_to(history: History) -> Iterator[Violation]:
    for run, expected in history.expected.items():
        for token in expected.children:
            ends, facts = history.ends.get(child_run(run, token), []), history.steps.get((run, token), [])
            for end, fact in zip(ends, facts, strict=False):
                if end.record.get("output") != fact.record.get("output") or _is_later(end, fact):
                    detail = f"{fact.record.get('output')} at {fact.sequence}, its child {end.record.get('output')}"
                    yield Violation("every parent has what its child came to", f"{run} {token}", detail)


def _is_later(fact: Recorded, other: Recorded) -> bool:
    # Journals of two shards have no order but that of time.
    return fact.sequence > other.sequence if fact.shard == other.shard else fact.time_ms > other.time_ms


def undos_run_in_reverse_order(history: History) -> Iterator[Violation]:
    for run, steps in history.steps_by_run.items():
        undos = sorted((each for each in steps.values() if each.record["kind"] == "compensate"), key=_place)
        undone = [steps[_undone(each)] for each in undos if _undone(each) in steps]
        if len(undone) != len(undos) or undone != sorted(undone, key=_place, reverse=True):
            detail = f"undone were {[each.rest[0] for each in undone]}, by {len(undos)} undos"
            yield Violation("undos run in the reverse order of what they undo", run, detail)


def _is_given_up(fact: Recorded) -> bool:
    """Tell whether a step got no result any more, since its run was ended from outside and what it did is undone."""
    error: Any = fact.record.get("error")
    return error is not None and error["type"] == "RunEnded"


def _place(fact: Recorded) -> int:
    return fact.sequence


def _undone(undo: Recorded) -> str:
    return step_token(tuple(undo.record.get("scope", ())), undo.record["name"].removeprefix(COMPENSATE_PREFIX))


def every_step_has_one_result_as_the_model_says(history: History) -> Iterator[Violation]:
    claim = "every step has one result, as the model says"
    for run, expected in history.expected.items():
        for token, step in expected.steps.items():
            facts = history.steps.get((run, token), [])
            if len(facts) != 1 and not (step.optional and not facts):
                yield Violation(claim, f"{run} {token}", f"{len(facts)} results")
            for fact in facts:
                if problem := _differs(step, fact, len(history.tries.get((run, token), []))):
                    yield Violation(claim, f"{run} {token}", problem)
    for run, token in history.steps:
        if run in history.expected and token not in history.expected[run].steps:
            yield Violation(claim, f"{run} {token}", "the model knows no such step")


def _differs(step: ExpectedStep, fact: Recorded, tries: int) -> str:
    record = fact.record
    if record["kind"] != step.kind:
        return f"of kind {record['kind']} instead of {step.kind}"
    if (record.get("status", "completed") == "failed") != step.fails:
        return f"its result is {record.get('status', 'completed')}: {record.get('error')}"
    if step.value is not None and record["output"]["value"] != step.value:
        return f"it is worth {record['output']['value']} instead of {step.value}"
    # Of two passes at once, one may record a failed attempt while the other's same attempt succeeds.
    if tries > step.failures or record.get("attempt", 1) > tries + 1:
        return f"attempt {record.get('attempt', 1)} after {tries} failed ones, {step.failures} foreseen"
    return ""


def every_result_comes_from_a_body_that_ran(history: History) -> Iterator[Violation]:
    made = {(line.run, line.step, line.nonce) for line in history.lines if line.kind == "end"}
    for (run, token), facts in history.steps.items():
        for fact in facts:
            nonce = _nonce(fact)
            if nonce and (run, token, nonce) not in made:
                yield Violation("every result comes from a body that ran", f"{run} {token}", f"none returned {nonce}")


def every_pass_sees_the_recorded_results(history: History) -> Iterator[Violation]:
    for line in history.lines:
        for token, nonce in line.seen.items():
            recorded = [_nonce(fact) for fact in history.steps.get((line.run, token), [])]
            if recorded != [nonce]:
                detail = f"process {line.pid} saw {nonce}, recorded is {recorded}"
                yield Violation("every pass sees the recorded results", f"{line.run} {token}", detail)


def no_body_begins_before_what_it_follows_is_recorded(history: History) -> Iterator[Violation]:
    for line in history.lines:
        if line.kind != "begin" or line.run not in history.expected:
            continue
        step = history.expected[line.run].steps.get(line.step)
        for before in step.after if step is not None else ():
            recorded = history.steps.get((line.run, before), [])
            if not recorded or recorded[0].time_ms > line.wall_ms + CLOCK_SLACK_MS:
                at = f"{recorded[0].time_ms - line.wall_ms:.0f} ms later" if recorded else "never"
                yield Violation(
                    "no body begins before what it follows is recorded",
                    f"{line.run} {line.step}",
                    f"{before} was recorded {at}",
                )


def no_body_begins_in_a_pass_that_knows_its_result(history: History) -> Iterator[Violation]:
    for line in history.lines:
        its_pass = history.passes.get(line.pass_id)
        if line.kind != "begin" or its_pass is None:
            continue
        for fact in [*history.steps.get((line.run, line.step), []), *history.ends.get(line.run, [])]:
            if fact.time_ms + CLOCK_SLACK_MS < min(its_pass.loaded_ms, line.wall_ms):
                yield Violation(
                    "no body begins in a pass that knows its result, or the run's",
                    f"{line.run} {line.step}",
                    f"{fact.kind} was recorded {its_pass.loaded_ms - fact.time_ms:.0f} ms before the pass loaded it",
                )


def no_timer_is_early(history: History) -> Iterator[Violation]:
    claim = "no timer is early"
    for (run, token), waits in history.waits.items():
        step = history.expected[run].steps.get(token) if run in history.expected else None
        if step is None or step.at_least_ms is None:
            continue
        for end in history.steps.get((run, token), []):
            early = waits[0].time_ms + step.at_least_ms - end.time_ms
            if early > 0 and not _is_given_up(end):
                yield Violation(claim, f"{run} {token}", f"{early} ms early")
    due = {(fact.run, *fact.rest): fact for fact in history.journal if fact.kind == "due"}
    for (run, token), tries in history.tries.items():
        for failed in tries:
            again = due.get((run, token, failed.rest[1]))
            if again is not None and again.time_ms < failed.time_ms + failed.record["delay_ms"]:
                yield Violation(claim, f"{run} {token}", f"attempt {failed.rest[1]} was made again too soon")


def everything_is_used_up(history: History) -> Iterator[Violation]:
    for what, count in history.leftovers.items():
        if count:
            yield Violation("everything is used up", what, f"{count} left")
    due = {(fact.run, *fact.rest) for fact in history.journal if fact.kind == "due"}
    for timer in history.timers:
        # The timer of a wait that was answered stays until it is due; it has no effect then.
        ended = (
            (timer.run, timer.step, str(timer.attempt)) in due
            if timer.attempt
            else (timer.run, timer.step) in history.steps
        )
        if not ended:
            yield Violation("everything is used up", f"{timer.run} {timer.step}", "its timer never did its work")


def _nonce(fact: Recorded) -> str:
    output: Any = fact.record.get("output")
    return output.get("nonce", "") if isinstance(output, dict) else ""


CHECKS: tuple[Check, ...] = (
    no_acknowledged_event_is_lost,
    every_run_ends_once_as_the_model_says,
    every_output_is_made_of_the_recorded_results,
    every_parent_has_what_its_child_came_to,
    undos_run_in_reverse_order,
    every_step_has_one_result_as_the_model_says,
    every_result_comes_from_a_body_that_ran,
    every_pass_sees_the_recorded_results,
    no_body_begins_before_what_it_follows_is_recorded,
    no_body_begins_in_a_pass_that_knows_its_result,
    no_timer_is_early,
    everything_is_used_up,
)
