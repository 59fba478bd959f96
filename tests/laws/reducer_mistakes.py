"""Mistakes that one could make in what decides about runs, each of which must break a law."""

from __future__ import annotations

from types import ModuleType

from ironflow_engine import epochs, overdue, reducer, remembered, retries, sleeps, timers, unwinding

Mistake = tuple[ModuleType, str, str]

IN_THE_REDUCER: dict[str, Mistake] = {
    "a wake-up during a pass is forgotten": (
        reducer,
        "woken = replace(state, woken_by=fact.sequence)",
        "woken = state",
    ),
    "a wake-up starts a pass beside the live one": (
        reducer,
        "    if state.live:\n        return Decision(sleeps.awake(woken), begun)\n",
        "",
    ),
    "what woke the run during its pass is not looked at": (
        reducer,
        "if state.woken_by > outcome.seen or",
        "if False or",
    ),
    "every suspended pass is followed by another": (
        reducer,
        "if state.woken_by > outcome.seen or",
        "if True or",
    ),
    "what a pass has seen wakes the run once more": (
        reducer,
        "live=False, woken_by=max(state.woken_by, fact.record.seen))",
        "live=False)",
    ),
    "an outcome of an earlier pass counts": (reducer, "return outcome.number == state.number\n", "return True\n"),
    "an outcome counts twice": (
        reducer,
        "    if state.live:\n        return outcome.number",
        "    if state.live or outcome.number == state.number:\n        return outcome.number",
    ),
    "a task that was not published is forgotten": (
        reducer,
        "if state.live and state.dispatched_for == cause else ()",
        "if False else ()",
    ),
    "nobody remembers what a task was published for": (reducer, "live=True, dispatched_for=cause)", "live=True)"),
    "the first task is not published again": (
        reducer,
        "(Dispatch(state=state, event=fact.event, again=True), *timers.of_run(state))",
        "timers.of_run(state)",
    ),
    "a task that comes again does not say so": (
        reducer,
        "Dispatch(state=state, again=True),) if",
        "Dispatch(state=state),) if",
    ),
    "a run's timer is not set again": (
        reducer,
        "without the timer having been set.\n    return Decision(state, timers.of_run(state))",
        "without the timer having been set.\n    return Decision(state)",
    ),
    "a run that has ended is woken": (
        reducer,
        "    if state.status in TERMINAL:\n        return Decision(state)\n    if isinstance(fact, Woken)",
        "    if isinstance(fact, Woken)",
    ),
    "an outcome changes a run that has ended": (
        reducer,
        "    if state.status in TERMINAL:\n        return Decision(state, _end_commands(state, fact) if state.ended_by",
        "    if False:\n        return Decision(state, _end_commands(state, fact) if state.ended_by",
    ),
    "the end is announced once": (reducer, "if state.ended_by == fact.sequence else ()", "if False else ()"),
    "the number stays": (reducer, "number=state.number + 1", "number=state.number"),
    "the number jumps": (reducer, "number=state.number + 1", "number=state.number + 2"),
    "a timer is not set again": (
        reducer,
        "return Decision(state, (timer,))",
        "return Decision(state, () if state.woken_by else (timer,))",
    ),
    "a back-off is not set again": (
        reducer,
        "return Decision(state, (timers.of_back_off(state, fact),))",
        "return Decision(state, () if state.woken_by else (timers.of_back_off(state, fact),))",
    ),
    "why a run has failed is forgotten": (reducer, "        error=outcome.error,\n", ""),
}
OF_ENDS_FROM_OUTSIDE: dict[str, Mistake] = {
    "a run that rests cannot be ended": (
        reducer,
        'return outcome.number == state.number + 1 and outcome.status != "suspended"',
        "return False",
    ),
    "a run stays at its last pass": (reducer, "        number=outcome.number,\n", ""),
    "the task is left": (reducer, "(unwinding.stop(state) if outcome.imposed or state.ending else ())", "()"),
    "another task is taken back": (unwinding, "ended = state.number if", "ended = state.number + 1 if"),
    "the timers are left": (unwinding, "*, timers: bool = True)", "*, timers: bool = False)"),
    "the timers of another epoch are taken back": (
        unwinding,
        "number=ended, epoch=epochs.current(state), timers",
        "number=ended, epoch=state.attempt, timers",
    ),
}
OF_RETRIES: dict[str, Mistake] = {
    "a run that was cancelled or has completed is retried": (retries, 'state.status == "failed" and', "True and"),
    "a retry counts twice": (retries, "and fact.epoch == state.attempt:", "and True:"),
    "a retry counts in a run that goes on": (retries, 'if state.status == "failed" and fact', "if fact"),
    "the task of a new epoch is published once": (
        retries,
        "if state.live and state.dispatched_for",
        "if False and state.dispatched_for",
    ),
    "the task of a new epoch does not say that it comes again": (
        retries,
        "(Dispatch(state=state, again=True),)",
        "(Dispatch(state=state),)",
    ),
    "nobody remembers that a retry dispatched the task": (retries, "        dispatched_for=fact.sequence,\n", ""),
    "the retry wakes the run once more": (retries, "        woken_by=fact.sequence,\n", "        woken_by=10_000,\n"),
    "a new epoch takes the number of the pass that failed": (retries, "number=state.number + 1", "number=state.number"),
    "a new epoch skips a number": (retries, "number=state.number + 1", "number=state.number + 2"),
    "a new epoch does not count": (retries, "attempt=state.attempt + 1", "attempt=state.attempt"),
    "nobody remembers which retry opened the epoch": (retries, "        epoch_sequence=fact.sequence,\n", ""),
    "the pass of a new epoch is not live": (retries, "        live=True,\n", "        live=False,\n"),
    "a new epoch has no timers": (
        retries,
        "(Dispatch(state=opened), *_timers(opened, fact))",
        "(Dispatch(state=opened),)",
    ),
    "the timers of a new epoch are set once": (retries, "(*dispatch, *_timers(state, fact))", "dispatch"),
    "sleeps do not go on in a new epoch": (retries, "in fact.sleeps)", "in fact.sleeps[:0])"),
    "the time of a new epoch is not counted": (retries, "(*timers.of_run(state), ", "(*timers.of_run(state)[:0], "),
    "a new epoch goes on undoing": (retries, "        ending=None,\n", ""),
    "a run's timer is not set": (timers, "if not state.timeout_ms:", "if True:"),
    "a run's timer says nothing of its epoch": (timers, "        epoch=epoch,\n", ""),
    "the timer of a back-off says nothing of its epoch": (
        timers,
        "attempt=attempt,\n        epoch=epochs.current(state),",
        "attempt=attempt,",
    ),
    "the timer of a wait is that of another step": (
        timers,
        "        step=fact.step,\n        due_ms=due_at(fact),\n        wait",
        "        step='',\n        due_ms=due_at(fact),\n        wait",
    ),
    "the timer of a back-off is that of another step": (
        timers,
        "        step=fact.step,\n        due_ms=due_at(fact),\n        attempt",
        "        step='',\n        due_ms=due_at(fact),\n        attempt",
    ),
    "all back-offs have one timer": (timers, "timer=try_timer(fact.step, attempt)", "timer=try_timer('', attempt)"),
    "all waits have one timer": (timers, "timer=wait_timer(fact.step)", "timer=wait_timer('')"),
    "what is of the past is taken for the present": (epochs, "[1] < current", "[1] < 0 * current"),
    "what is of the present is taken for the past": (epochs, "[1] < current", "[1] <= current"),
    "the first epoch counts as the second": (epochs, "return state.attempt - 1", "return state.attempt"),
    "a back-off of an earlier epoch begins": (
        reducer,
        "if unwinding.is_of_no_use(state, fact) or epochs.is_past(state, fact.step):",
        "if unwinding.is_of_no_use(state, fact):",
    ),
}
OF_UNWINDING: dict[str, Mistake] = {
    "how it ends is forgotten": (unwinding, "        ending=outcome.ending,\n", ""),
    "why it ends is forgotten": (unwinding, "        error=outcome.error,\n", ""),
    "it does not say that it is unwound": (unwinding, '        status="compensating",\n', ""),
    "it does not say how that goes": (unwinding, '        compensation="running",\n', ""),
    "it does not say how that went": (reducer, "        compensation=outcome.compensation,\n", ""),
    "the pass that undoes has the number of the one before": (
        unwinding,
        "number=outcome.number + 1",
        "number=outcome.number",
    ),
    "the pass that undoes skips a number": (unwinding, "number=outcome.number + 1", "number=outcome.number + 2"),
    "the pass that undoes is not live": (unwinding, "        live=True,\n", "        live=False,\n"),
    "nobody remembers what the pass that undoes is for": (unwinding, "        dispatched_for=fact.sequence,\n", ""),
    "the pass that undoes is not dispatched": (unwinding, "        Dispatch(state=state, again=again),\n", ""),
    "it is not dispatched again": (unwinding, "return _commands(state, fact, again=True) if", "return () if"),
    "nothing comes of the outcome when it comes again": (
        reducer,
        "return Decision(state, unwinding.begin_again(state, fact))",
        "return Decision(state)",
    ),
    "what comes again does not say so": (unwinding, "again=True)", "again=False)"),
    "the task that undoes is taken back": (unwinding, "stop(state, outcome.number, timers", "stop(state, timers"),
    "the task of the pass that was ended is left": (unwinding, "if outcome.imposed else ()", "if False else ()"),
    "the back-off of an undo sets no timer": (
        unwinding,
        'return state.ending is not None and fact.record.kind != "compensate"',
        "return state.ending is not None",
    ),
    "what was begun before goes on": (
        unwinding,
        'return state.ending is not None and fact.record.kind != "compensate"',
        "return False",
    ),
    "a timer is set for a run that has ended": (
        unwinding,
        "    if state.status in TERMINAL:\n        return True\n",
        "",
    ),
    "a run that backs off while it is unwound waits": (
        reducer,
        'unwinding.status_while(state, "waiting")',
        '"waiting"',
    ),
    "a run whose undo is tried again is queued": (reducer, 'unwinding.status_while(state, "queued")', '"queued"'),
    "a run that goes on is unwound": (unwinding, "otherwise if state.ending is None else", "otherwise if False else"),
}
OF_RECONCILING: dict[str, Mistake] = {
    "a run that rests does not say that it is due": (reducer, "        due_ms=fact.record.due_ms,\n", ""),
    "a task that is missing is not published": (
        reducer,
        "again = _commands_again(state, state.dispatched_for) if state.number == fact.number else ()",
        "again = ()",
    ),
    "the end of a run's time stays lost": (
        reducer,
        "return Decision(state, (*again, *timers.of_run(state)))",
        "return Decision(state, again)",
    ),
    "a run that has ended gets a timer": (
        reducer,
        "def _review(state: RunState, fact: StateReviewed) -> Decision:\n    if state.status in TERMINAL:",
        "def _review(state: RunState, fact: StateReviewed) -> Decision:\n    if False:",
    ),
    "waits stay lost": (
        overdue,
        "for fact in self._open.values() if _has_time(fact) and due_at(fact) <= now_ms]",
        "for fact in ()]",
    ),
    "wake-ups stay lost": (overdue, "if self._ended_at > self._state.woken_by:", "if False:"),
    "an old wake-up comes again": (overdue, "sequence=self._ended_at)", "sequence=self._state.woken_by)"),
    "waits are not read": (overdue, 'case "wait" | "try":', 'case "try":'),
    "back-offs are not read": (overdue, 'case "wait" | "try":', 'case "wait":'),
    "the end of a back-off wakes nobody": (overdue, 'elif ended is not None and address.kind == "due":', "elif False:"),
    "the end of a wait wakes nobody": (overdue, "if isinstance(ended, WaitRecorded):", "if False:"),
    "an end that a pass left behind has recorded wakes nobody": (
        overdue,
        "if end.slept_out:",
        "if end.slept_out: pass\n        elif False:",
    ),
}
OF_SLEEPS: dict[str, Mistake] = {
    "a run that waits for more than sleeps is begun early": (
        sleeps,
        "not state.live and state.only_sleeps",
        "not state.live",
    ),
    "a run that is live is begun early": (sleeps, "return not state.live and", "return"),
    "a run that is being unwound is begun early": (sleeps, " and state.ending is None and", " and"),
    "a pass that is begun early is not live": (sleeps, "        live=True,\n", ""),
    "a pass that is begun early has no number of its own": (sleeps, "        number=state.number + 1,\n", ""),
    "nobody remembers which sleep a pass was begun for": (sleeps, "        dispatched_for=fact.sequence,\n", ""),
    "a task that is published early is published once": (
        sleeps,
        "return Decision(state, (Dispatch(state=state, again=True),))",
        "return Decision(state)",
    ),
    "a task that is published early again does not say so": (
        sleeps,
        "return Decision(state, (Dispatch(state=state, again=True),))",
        "return Decision(state, (Dispatch(state=state),))",
    ),
    "a task that was to be published early stays lost": (
        sleeps,
        "if is_for(state, fact.sleep) else ()",
        "if False else ()",
    ),
    "an end that its pass knows wakes the run": (
        sleeps,
        "if fact.by == state.rested_by else None",
        "if False else None",
    ),
    "an end that no pass knows wakes nobody": (sleeps, "if fact.by == state.rested_by else None", "if True else None"),
    "an end that wakes the run counts once": (
        sleeps,
        "if fact.sequence <= state.woken_by:\n        return None",
        "if fact.sequence <= state.woken_by:\n        return state",
    ),
    "an end of a pass left behind is forgotten": (sleeps, "if by != mark(token)", "if False"),
    "an end that the pass knows counts as another's": (sleeps, "if by != mark(token)", "if True"),
    "what earlier passes have slept out stays": (reducer, "slept_out={})", "slept_out=state.slept_out)"),
    "nobody remembers which pass rested": (reducer, "        rested_by=mark(fact.record.token),\n", ""),
}
OF_REMEMBERED_STATES: dict[str, Mistake] = {
    "a wait of a later epoch is taken for one of this": (remembered, "<= current for", "<= current + 9 for"),
    "an old state will do for every fact": (
        remembered,
        "isinstance(fact, (WaitRecorded, TryRecorded)) and",
        "not isinstance(fact, (WaitRecorded, TryRecorded)) or",
    ),
}
