"""Calls lop with malformed options, parameters and files: each must give one clear error line.

`python -m benchmarks.fuzz` runs 1,700 cases in about half an hour on two cores; `--write` puts the
result on docs/results/reliability.md. A case is one call of one command with one error in its
input, in a separate process with limits of time and memory. It passes if the command succeeds, or
if it ends with exit code 2 and one line on standard error. Everything else is a fault, and so are
success on meaningless input and a change of a foreign file.

`python -m benchmarks.fuzz --seed S --only N` runs only case N and keeps its directory.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from benchmarks.common import origin
from benchmarks.reliability import sandbox, watch
from benchmarks.reliability.cases import PARAMS, Case, cases
from benchmarks.reliability.page import table, write_section
from benchmarks.reliability.sandbox import BROKEN, Ended, Running
from lop import errors, settings
from lop.cli import main as lop

MEMORY = 4 << 30  # bytes that a case may ask for
SECONDS = 150  # limits of a case; `compare` starts processes, which import everything
AT_ONCE = 2
LISTED = 200  # faults on the page at most
ACCEPTED, REFUSED = "accepted", "refused"


@dataclass(frozen=True)
class Result:
    """A case, the error in its input, and the outcome: ACCEPTED, REFUSED, or a fault's name."""

    case: Case
    wrong: str
    outcome: str
    said: str

    @property
    def fault(self) -> bool:
        return self.outcome not in (ACCEPTED, REFUSED)

    def line(self) -> str:
        """The result in a line, for a terminal."""
        words = ["lop", *(w if len(w) < 60 else f"{w[:40]}…" for w in self.case.words)]
        call = shlex.join(words).encode("utf-8", "backslashreplace").decode()
        return f"{self.case.number}: {self.outcome}: {self.wrong}: {call}: {self.said[:300]}"


class Campaign:
    """Cases in folders below `root`, each a copy of the same inputs."""

    def __init__(self, root: Path) -> None:
        from benchmarks.reliability import inputs

        self.root = root
        self.valid = root / "valid"
        self.valid.mkdir(parents=True)
        made = sandbox.run(self.valid, partial(inputs.make, Path(".")), root / "inputs")
        if made.code:
            raise SystemExit(f"cannot make the inputs:\n{made.err}")

    def run(self, chosen: Iterable[Case], keep: bool = False) -> Iterator[Result]:
        """Run cases, a few at a time."""
        for case, ended in sandbox.run_all(chosen, self._start, SECONDS, AT_ONCE, _serves):
            folder = self._folder(case)
            if ended.code == BROKEN:
                raise SystemExit(f"case {case.number} cannot be set up:\n{ended.err}")
            yield self._judge(case, ended)
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)
                for name in (".out", ".err", ".json"):
                    Path(f"{folder}{name}").unlink(missing_ok=True)

    def _folder(self, case: Case) -> Path:
        return self.root / f"case-{case.number}" / "work"

    def _start(self, case: Case) -> Running:
        folder = self._folder(case)
        folder.mkdir(parents=True)
        run = partial(_run_case, case, self.valid)
        return Running.start(folder, run, folder.parent / "log", MEMORY)

    def _judge(self, case: Case, ended: Ended) -> Result:
        folder = self._folder(case)
        set_up = json.loads((folder.parent / "case.json").read_text())
        outcome = judged(case, ended, set_up["refuse"])
        said = next(iter(reversed(ended.err.strip().splitlines())), "")
        if outcome in (ACCEPTED, REFUSED):
            own = _outputs(case) if outcome == ACCEPTED else []
            if changed := watch.touched(set_up["files"], watch.listing(folder), own):
                outcome, said = "changed others' files", ", ".join(changed[:3])
            elif (left := watch.leftovers(set_up["files"], folder)) and not _is_service(case):
                outcome, said = "left temporary files", ", ".join(left[:3])
        return Result(case, set_up["wrong"], outcome, said)


def judged(case: Case, ended: Ended, refuse: bool) -> str:
    """The outcome of a command, from its exit code and output."""
    served = _is_service(case) and " serves " in ended.out and not ended.late
    if ended.late:
        return "hang"
    if "MemoryError" in ended.err or ("can't allocate memory" in ended.err and ended.code != 2):
        return "out of memory"
    if "Traceback (most recent call last)" in ended.err:
        return "traceback"
    if ended.code == 2:
        lines = ended.err.strip().splitlines()
        well = len(lines) == 1 and lines[0].startswith("lop: ")
        return REFUSED if well else "not one line"
    if ended.code and not served:
        return f"exit code {ended.code}"
    return "nonsense accepted" if refuse else ACCEPTED


def _run_case(case: Case, valid: Path) -> int:
    """Prepare the case and call lop, in the case's own process and directory."""
    try:
        here = Path.cwd()
        shutil.copytree(valid, here, dirs_exist_ok=True, symlinks=True)
        watch.put_bystanders(here)
        told = case.spoil(here)
        set_up = {"wrong": told.what, "refuse": told.refuse, "files": watch.listing(here)}
        (here.parent / "case.json").write_text(json.dumps(set_up))
        tempfile.tempdir = str(here.parent)
    except Exception:
        traceback.print_exc()
        return BROKEN
    if case.words == (PARAMS,):
        return errors.run(_read_params)
    return lop(case.words)


def _read_params() -> None:
    settings.read(PARAMS)


def _outputs(case: Case) -> list[str]:
    """Where a call is told to write, and what goes beside that."""
    words = [w.partition("=") for w in case.words]
    named = [value for name, _, value in words if name == "--out" and value]
    plain = [b for a, b in zip(case.words, case.words[1:], strict=False) if a == "--out"]
    out = (named or plain or [""])[-1]
    if out in (".", "dangling", "to-foreign"):
        return ["nowhere"]
    return [out, f"{out}-training", str(Path(out).with_suffix(".json"))] if out else []


def _is_service(case: Case) -> bool:
    return case.target.command == "serve"


def _serves(running: Running) -> bool:
    return " serves " in running.out


def page(results: list[Result], seed: int) -> str:
    """The section of the page: counts by command and by what was wrong, then every fault."""
    faults = [r for r in results if r.fault]
    count = Counter(r.outcome for r in results)
    listed = [
        (r.case.number, r.outcome, f"`{' '.join(r.case.words[:1])}`", r.wrong[:80], r.said[:160])
        for r in faults[:LISTED]
    ]
    parts = [
        origin(),
        f"{len(results):,} cases: {count[ACCEPTED]:,} accepted, {count[REFUSED]:,} refused in one "
        f"line with exit code 2, {len(faults):,} faults.",
        _counts("command", results, lambda r: r.case.target.command),
        _counts("wrong", results, lambda r: r.case.kind),
    ]
    if faults:
        again = f"Again: `python -m benchmarks.fuzz --seed {seed} --only NUMBER`."
        parts += [again, table(["case", "fault", "command", "wrong", "said"], listed)]
    return "\n\n".join(_plain(part) for part in parts)


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _counts(title: str, results: list[Result], key: Callable[[Result], str]) -> str:
    counts: dict[str, Counter[str]] = {}
    for result in results:
        counts.setdefault(key(result), Counter())["fault" if result.fault else result.outcome] += 1
    head = [title, ACCEPTED, REFUSED, "faults"]
    return table(
        head, [(name, c[ACCEPTED], c[REFUSED], c["fault"]) for name, c in sorted(counts.items())]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1700)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this case and keep its folder")
    parser.add_argument("--write", action="store_true", help="write docs/results/reliability.md")
    args = parser.parse_args()
    sandbox.prepare()
    root = Path(tempfile.mkdtemp(prefix="lop-fuzz-"))
    one = args.only is not None
    drawn = islice(cases(args.seed), args.only if one else 0, args.only + 1 if one else args.cases)
    results = []
    try:
        for result in Campaign(root).run(drawn, keep=one):
            results.append(result)
            if result.fault or one:
                print(_plain(result.line()), flush=True)
    finally:
        if one:
            print(f"its folder: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    results.sort(key=lambda r: r.case.number)
    faults = sum(r.fault for r in results)
    print(f"{len(results)} cases, {faults} faults")
    if args.write:
        write_section("Malformed inputs", page(results, args.seed))
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
