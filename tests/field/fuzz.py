"""Mutation fuzzer of all readers: `python -m tests.field.fuzz --minutes 10 --out failures`.

Every case is read within limits of time and memory. Its outcome must be a `DataError` of one line, or scenes that are
finite. Cases depend on their number alone. A reader that fails, or ends the process, leaves its input and a report.
"""

import argparse
import contextlib
import gc
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# CPU time of a case, s.
MAX_SECONDS = 5.0
# Memory of a case: a factor on the size of its input, and a constant, bytes.
MAX_MEMORY_FACTOR = 50
MEMORY_CONSTANT = 200 * 2**20
# Cases of a reader before the next one.
ROUND = 500
OK, REFUSED = "scene", "DataError"


class CaseTimeout(BaseException):
    """A case has taken `MAX_SECONDS` of CPU time."""


@contextlib.contextmanager
def limits(size: int) -> Iterator[None]:
    """Limits of CPU time and memory for an input of `size` bytes."""

    def stop(*_):
        raise CaseTimeout(f"took {MAX_SECONDS} s")

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_CONSTANT + MAX_MEMORY_FACTOR * size, before[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)


def run_case(target, path: Path, data: bytes) -> str:
    """The outcome of a case: `OK`, `REFUSED`, or the description of a failure."""
    from waymax_sim.datasets.errors import DataError

    path.write_bytes(data)
    try:
        with limits(len(data)):
            target.check(path)
        return OK
    except DataError as error:
        text = str(error)
        return REFUSED if text.isprintable() and error.problem else f"unprintable message {text!r}"
    except (Exception, CaseTimeout) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/waymax_sim/" in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "tests"
        return f"{type(error).__name__} at {where}: {str(error)[:100]}"


def work(name: str, start: int, count: int, out: Path) -> None:
    """Runs cases of a reader in this process, and prints the number of each outcome as JSON."""
    from tests.field.targets import targets

    with tempfile.TemporaryDirectory() as folder:
        target, path = targets(Path(folder))[name], Path(folder) / "case"
        path.mkdir()
        target.prepare(path)
        path /= target.name
        outcomes: Counter[str] = Counter()
        for number in range(start, start + count):
            data = target.damage(random.Random(f"{name} {number}"))
            (out / f"{name}.current").write_bytes(data)
            outcome = run_case(target, path, data)
            outcomes[outcome] += 1
            if outcome not in (OK, REFUSED) and outcomes[outcome] <= 2:
                (out / f"{name}-{number}{path.suffix}").write_bytes(data)
                (out / f"{name}-{number}.txt").write_text(outcome + "\n")
            if number % 1000 == 999:
                gc.collect()
        (out / f"{name}.current").unlink()
        print(json.dumps(outcomes))


def run_round(name: str, start: int, count: int, out: Path) -> Counter[str]:
    """Runs cases of a reader in a process of its own; the end of that process is an outcome too."""
    command = [sys.executable, "-m", "tests.field.fuzz", "--reader", name]
    command += ["--start", str(start), "--count", str(count), "--out", str(out)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode == 0:
        return Counter(json.loads(run.stdout.splitlines()[-1]))
    current = out / f"{name}.current"
    if current.exists():
        current.rename(out / f"{name}-{start}.crash")
    (out / f"{name}-{start}.txt").write_text(run.stderr[-4000:])
    return Counter({f"the process ended with code {run.returncode}": 1})


def names() -> list[str]:
    from tests.field.targets import targets

    with tempfile.TemporaryDirectory() as folder:
        return list(targets(Path(folder)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="duration over all readers")
    parser.add_argument("--out", type=Path, default=Path("fuzz_failures"), help="folder for failing inputs")
    parser.add_argument("--reader", help="run the cases of one reader in this process")
    parser.add_argument("--start", type=int, default=0, help="number of the first case of each reader")
    parser.add_argument("--count", type=int, default=ROUND, help="cases of a reader before the next one")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.reader:
        work(arguments.reader, arguments.start, arguments.count, arguments.out)
        return 0
    totals = {name: Counter() for name in names()}
    end, start = time.monotonic() + 60 * arguments.minutes, arguments.start
    while time.monotonic() < end:
        for name, total in totals.items():
            if time.monotonic() < end:
                total += run_round(name, start, arguments.count, arguments.out)
                print(f"{name:16s} {sum(total.values()):7d} cases  {dict(total)}", flush=True)
        start += arguments.count
    failures = sum(
        count for total in totals.values() for outcome, count in total.items() if outcome not in (OK, REFUSED)
    )
    print(f"{sum(map(Counter.total, totals.values()))} cases, {failures} failures, see {arguments.out}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
