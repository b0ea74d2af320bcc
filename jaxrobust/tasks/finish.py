"""The end of every run: table, card, report, and what the user reads on the
terminal."""

from jaxrobust import sharding
from jaxrobust.progress import Progress
from jaxrobust.report import write_report
from jaxrobust.tasks.card import Check, Premises, make_card
from jaxrobust.tasks.results import Results, format_table
from jaxrobust.tasks.setup import Setup
from jaxrobust.tasks.trainer import Trainer
from jaxrobust.threat import format_eps
from jaxrobust.workdir import Workdir


def finish(
    setup: Setup,
    trainer: Trainer,
    results: Results,
    answer: str,
    checks: list[Check],
    started: float,
) -> None:
    """Write results.json, card.json and the report; print the table and failed
    checks."""
    conclude(setup, trainer.workdir, trainer.progress, results, answer, checks, started)


def conclude(
    setup: Premises,
    workdir: Workdir,
    progress: Progress,
    results: Results,
    answer: str,
    checks: list[Check],
    started: float,
) -> None:
    """The same for tasks that train nothing."""
    progress.close()
    rows = results.finish(answer)
    if not sharding.is_lead():
        return
    workdir.write("card.json", make_card(setup, workdir, started, checks))
    report = write_report(workdir.path)
    threat, test = setup.threat, setup.splits.test
    print(
        f"\n{threat.norm} eps {format_eps(threat)}, {len(test)} test images, ", end=""
    )
    print(test.provenance)
    print(format_table(rows))
    print(f"\n{answer}")
    for check in checks:
        if not check.ok:
            print(f"CHECK FAILED: {check.name}: {check.value} ({check.note})")
    print(f"report: {report}")
