"""Kills commands at random moments, and checks what they leave and whether they resume.

`python -m benchmarks.kills` kills 130 times, in about ten minutes on two cores; `--write` puts the
result on docs/results/reliability.md. Each command first runs without a kill, which gives its time
and its result. Then it is killed by SIGKILL or SIGTERM at random moments within that time; modules
are imported before. Requirements:

- each path has its old content or the complete new result, never a part of it;
- finished work is not lost, and not repeated;
- the same call then succeeds, with the result of a run without a kill, and no temporary files stay;
- no foreign file is changed, and no process stays alive.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from benchmarks.common import origin
from benchmarks.reliability import sandbox, states, watch
from benchmarks.reliability.page import table, write_section
from benchmarks.reliability.sandbox import Running
from benchmarks.reliability.scenarios import Scenario, scenarios

GRACE = 30  # seconds in which all processes of a killed command must end
RARE = 4  # slow scenarios run in one of this many rounds


Work = Callable[[], int | None]


@dataclass
class Measured:
    """A scenario without a kill: its result, its time, and the directory at its start."""

    scenario: Scenario
    begin: Path
    old: states.State
    new: states.State
    seconds: float


@dataclass
class Kill:
    """One kill and what came of it."""

    number: int
    scenario: str
    signal: str
    moment: float  # share of the undisturbed time
    found: str = ""  # nothing, old, new, or part of a growing result
    faults: list[str] = field(default_factory=list)


class Campaign:
    """Kills in folders below `root`."""

    def __init__(self, root: Path, seed: int, names: list[str] | None = None) -> None:
        from benchmarks.reliability import inputs

        self.root, self.seed = root, seed
        self.valid = root / "valid"
        self.valid.mkdir(parents=True)
        self._checked(self.valid, partial(inputs.make, Path(".")))
        watch.put_bystanders(self.valid)
        self.scenarios = [s for s in scenarios() if not names or s.name in names]
        self.measured: dict[str, Measured] = {}

    def kill(self, number: int) -> Kill:
        """The kill with this number: number and seed decide its scenario, signal and moment."""
        rng = Random(f"{self.seed} {number}")
        turn, which = divmod(number, len(self.scenarios))
        scenario = self.scenarios[which]
        if scenario.rare and turn % RARE:
            scenario = rng.choice([s for s in self.scenarios if not s.rare] or self.scenarios)
        measured = self._measure(scenario)
        name = rng.choice(["SIGKILL", "SIGTERM"])
        kill = Kill(number, scenario.name, name, rng.uniform(0, 1.05))
        folder = self.root / f"kill-{number}"
        shutil.copytree(measured.begin, folder, symlinks=True, copy_function=_copy)
        self._kill(kill, measured, folder)
        shutil.rmtree(folder)
        return kill

    def _kill(self, kill: Kill, measured: Measured, folder: Path) -> None:
        before = watch.listing(folder)
        running = measured.scenario.start(folder, folder.with_suffix(".log"))
        time.sleep(kill.moment * measured.seconds)
        os.kill(running.pid, getattr(signal, kill.signal))
        if running.wait(time.monotonic() - running.begun + GRACE).late or _alive(running):
            kill.faults.append(f"alive {GRACE} s after the signal")
        running.end_family()
        state = self._state(folder, measured.scenario)
        kill.found = found(state, measured)
        if kill.found in ("broken", "gone"):
            kill.faults.append(f"{kill.found} under its name: {_difference(state, measured.new)}")
        self._go_on(kill, measured, folder, before, state)

    def _go_on(
        self,
        kill: Kill,
        measured: Measured,
        folder: Path,
        before: watch.Listing,
        state: states.State,
    ) -> None:
        """Run the same call again, and check what it leaves."""
        scenario = measured.scenario
        then = watch.listing(folder)
        ended = scenario.finish(folder, folder.with_suffix(".again"))
        if ended.code:
            said = ended.err.strip().splitlines()[-1:]
            kill.faults.append(f"again: exit code {ended.code}: {' '.join(said)}")
        elif (after := self._state(folder, scenario)) != measured.new:
            kill.faults.append(f"again: another result: {_difference(after, measured.new)}")
        now = watch.listing(folder)
        if scenario.grows:
            finished = [n for n in state if n.endswith(".parquet") and measured.new.get(n)]
            if again := [n for n in finished if now.get(n) != then.get(n)]:
                kill.faults.append(f"done again: {again[0]}")
        if left := watch.leftovers(before, folder):
            kill.faults.append(f"left: {', '.join(left[:3])}")
        if changed := watch.touched(before, now, scenario.names):
            kill.faults.append(f"changed: {', '.join(changed[:3])}")

    def _measure(self, scenario: Scenario) -> Measured:
        """Run twice without a kill; for files that differ between the two, only existence is
        checked."""
        if scenario.name in self.measured:
            return self.measured[scenario.name]
        begin = self.root / f"begin-{len(self.measured)}"
        shutil.copytree(self.valid, begin, symlinks=True, copy_function=_copy)
        self._checked(begin, scenario.prepare)
        old = self._state(begin, scenario)
        results, seconds = [], 0.0
        for turn in range(2):
            folder = self.root / f"measure-{len(self.measured)}-{turn}"
            shutil.copytree(begin, folder, symlinks=True, copy_function=_copy)
            ended = scenario.finish(folder, folder.with_suffix(".log"))
            if ended.code:
                raise SystemExit(f"{scenario.name}, undisturbed: {ended.err}")
            results.append(self._state(folder, scenario))
            seconds = ended.seconds
            shutil.rmtree(folder)
        if results[0] != results[1]:
            said = _difference(*results)
            raise SystemExit(f"{scenario.name}: two undisturbed runs differ in {said}")
        self.measured[scenario.name] = Measured(scenario, begin, old, results[0], seconds)
        return self.measured[scenario.name]

    def _state(self, folder: Path, scenario: Scenario) -> states.State:
        logs = self.root / "state"
        return json.loads(self._checked(folder, partial(states.print_state, scenario.names), logs))

    def _checked(self, folder: Path, work: Work, logs: Path | None = None) -> str:
        ended = sandbox.run(folder, work, logs or self.root / "work")
        if ended.code:
            raise SystemExit(f"cannot set up the campaign:\n{ended.err}")
        return ended.out


def _copy(source: str, target: str) -> str:
    """A file, or a FIFO as such."""
    if Path(source).is_fifo():
        os.mkfifo(target)
        return target
    return shutil.copy2(source, target)


def _alive(running: Running) -> bool:
    end = time.monotonic() + GRACE
    while running.family():
        if time.monotonic() > end:
            return True
        time.sleep(0.05)
    return False


def found(state: states.State, measured: Measured) -> str:
    """Which of the complete states a command's paths have."""
    old, new, scenario = measured.old, measured.new, measured.scenario
    if scenario.words[0] == "track":  # a database grows inside; whether it is sound, the next shows
        return "part" if state else "nothing"
    if scenario.grows:
        whole = all(digest in (new.get(n), old.get(n)) for n, digest in state.items())
        lost = any(n not in state for n in old)
        return "gone" if lost else "new" if state == new else "part" if whole else "broken"
    for name in scenario.names:
        if (mine := _of(state, name)) not in (_of(old, name), _of(new, name)):
            return "broken" if mine else "gone"
    known = {"nothing": {}, "new": new, "old": old}
    return next((kind for kind, whole in known.items() if state == whole), "part")


def _of(state: states.State, name: str) -> states.State:
    return {n: d for n, d in state.items() if n == name or n.startswith(f"{name}/")}


def _difference(a: states.State, b: states.State) -> str:
    names = sorted(n for n in a.keys() | b.keys() if a.get(n) != b.get(n))
    return ", ".join(names[:3])


def page(kills: list[Kill]) -> str:
    """The section of the page: counts by scenario, then every fault."""
    by_name: dict[str, list[Kill]] = {}
    for kill in kills:
        by_name.setdefault(kill.scenario, []).append(kill)
    rows = []
    for name, mine in by_name.items():
        count = Counter(kill.found for kill in mine)
        kinds = [count[kind] for kind in ("nothing", "old", "part", "new")]
        rows.append((name, len(mine), *kinds, sum(bool(kill.faults) for kill in mine)))
    faulty = sum(bool(kill.faults) for kill in kills)
    parts = [
        origin(),
        f"{len(kills)} kills, {faulty} with faults. What lay under the command's names then: "
        "nothing yet, what was there before, finished parts, or the whole new result.",
        table(["killed", "kills", "nothing", "before", "parts", "new", "faults"], rows),
    ]
    faults = [
        (kill.number, kill.scenario, kill.signal, f"{kill.moment:.0%}", "; ".join(kill.faults))
        for kill in kills
        if kill.faults
    ]
    if faults:
        parts.append(table(["kill", "killed", "by", "moment", "fault"], faults))
    return "\n\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=130)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenarios", nargs="+", help="only these")
    parser.add_argument("--write", action="store_true", help="write docs/results/reliability.md")
    args = parser.parse_args()
    sandbox.prepare()
    kills = []
    with tempfile.TemporaryDirectory(prefix="lop-kills-") as root:
        campaign = Campaign(Path(root), args.seed, args.scenarios)
        for number in range(args.count):
            kill = campaign.kill(number)
            kills.append(kill)
            said = "; ".join(kill.faults) or "well"
            print(
                f"{number}: {kill.scenario}, {kill.signal} at {kill.moment:.0%}: "
                f"found {kill.found}: {said}",
                flush=True,
            )
    faulty = sum(bool(kill.faults) for kill in kills)
    print(f"{len(kills)} kills, {faulty} with faults")
    if args.write:
        write_section("Kills", page(kills))
    return int(faulty > 0)


if __name__ == "__main__":
    sys.exit(main())
