"""python -m launch.sweep --config=RECIPE --set KEY=A,B --workdir=DIR [-- LAUNCHER]

One run for every combination of the values, each in a directory below DIR that is named
after them; --config.KEY=VALUE sets a key of all runs, as for jaxrobust.main. Finished
runs are skipped, the others go on from where they stand: the same command continues a
sweep that was cut off. LAUNCHER starts a run, on all devices of this machine unless
given: `-- launch/processes.sh 2`, `-- sbatch --wait launch/slurm.sbatch`.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from jaxrobust.errors import UserError
from jaxrobust.main import EXIT_STOPPED, EXIT_USER
from launch.grid import Run, make_runs

PROGRAM = (sys.executable, "-m", "jaxrobust.main")


class Starter:
    """Starts runs, and passes a request to stop on to those at work."""

    def __init__(self, launcher: Sequence[str]):
        self._launcher = launcher
        self._working: set[subprocess.Popen] = set()
        self._stopping = False

    def stop(self, *_) -> None:
        """Start nothing more; runs at work save and end."""
        self._stopping = True
        for process in list(self._working):
            process.terminate()

    def __call__(self, run: Run) -> int:
        """Run it to its end, in a session of its own, which Ctrl-C does not reach; the
        exit status."""
        if self._stopping:
            return EXIT_STOPPED
        command = [*self._launcher, *run.arguments, f"--workdir={run.workdir}"]
        print(f"{state(run)}, starting: {run.workdir}", flush=True)
        run.output.parent.mkdir(parents=True, exist_ok=True)
        with open(run.output, "a") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True
            )
            self._working.add(process)
            if self._stopping:
                process.terminate()
            status = process.wait()
            self._working.remove(process)
        return status


def main(argv: Sequence[str]) -> int:
    """0 if every run is well, 1 if one is not, 2 for a mistake, before any run."""
    own, launcher = list(argv), list(PROGRAM)
    if "--" in own:
        at = own.index("--")
        own, launcher = own[:at], own[at + 1 :] or launcher
    given, rest = _parser().parse_known_args(own)
    try:
        if not shutil.which(launcher[0]):
            raise UserError(f"no launcher {launcher[0]!r}: give a program or its path")
        runs = make_runs((f"--config={given.config}", *rest), given.set, given.workdir)
    except UserError as error:
        print(f"sweep: {error}", file=sys.stderr)
        return EXIT_USER
    if given.dry_run:
        print_table([(state(run), run) for run in runs])
        return 0
    starter = Starter(launcher)
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, starter.stop)
    work = lambda run: 0 if state(run) == "finished" else starter(run)
    with ThreadPoolExecutor(given.jobs) as pool:
        futures = [pool.submit(work, run) for run in runs]
        # Timed: a signal need not wake a thread that waits for others.
        while wait(futures, timeout=0.5).not_done:
            pass
    ends = [future.result() for future in futures]
    print_table([(outcome(run, end), run) for run, end in zip(runs, ends)])
    return int(any(ends))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "launch.sweep",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--config", required=True, help="recipe, as for jaxrobust.main")
    add("--set", action="append", default=[], metavar="KEY=A,B", help="values of a key")
    add("--workdir", required=True, type=Path, help="directory of all runs")
    add("--dry_run", action="store_true", help="only say what stands where")
    add("--jobs", type=int, default=1, help="runs at the same time")
    return parser


def state(run: Run) -> str:
    """Of its directory: "finished", "begun", "new", or "other configuration"."""
    known = run.workdir / "config.json"
    if not known.exists():
        return "new"
    if json.loads(known.read_text()) != json.loads(json.dumps(run.config)):
        return "other configuration"
    # The card is the last file a run writes.
    return "finished" if (run.workdir / "card.json").exists() else "begun"


def outcome(run: Run, status: int) -> str:
    """How a run ended, for the table."""
    if status == 0:
        return state(run)
    what = "stopped" if status == EXIT_STOPPED else f"failed ({status})"
    return f"{what}, see {run.output.name}" if run.output.exists() else what


def print_table(rows: Sequence[tuple[str, Run]]) -> None:
    """What is where."""
    width = max(len(what) for what, _ in rows)
    for what, run in rows:
        print(f"{what:{width}}  {run.workdir}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
