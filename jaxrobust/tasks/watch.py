"""Between two looks at a running suite: progress, the ledger on disk, and SIGTERM."""

from collections.abc import Sequence

import numpy as np

from jaxrobust.attacks.machine import Component
from jaxrobust.evaluators.protocol import Ledger
from jaxrobust.progress import Progress
from jaxrobust.tasks.fit import STOP, Preempted
from jaxrobust.tasks.ledger import LedgerStore
from jaxrobust.threat import ThreatModel


def run_work(component: Component, threat: ThreatModel) -> float:
    """Passes through the network, forwards and backwards, that an image may cost."""
    machine = component.machine(threat)
    passes = machine.forwards + machine.backwards
    return component.runs * machine.num_steps * passes


class Watch:
    """Called with (ledger, component, share done). `works` are the passes planned for
    each component; those that fooled images no longer need count as done."""

    def __init__(
        self,
        name: str,
        components: Sequence[Component],
        works: Sequence[float],
        store: LedgerStore,
        progress: Progress,
    ):
        self.name, self.store, self.progress = name, store, progress
        self._names = [component.name for component in components]
        self._works = works
        self._shown = 0.0

    def __call__(self, ledger: Ledger, component: Component, share: float) -> None:
        self.store.save(ledger, now=share == 1.0)
        here = self._names.index(component.name)
        done = sum(self._works[:here]) + share * self._works[here]
        seen = {"robust so far": float(np.mean(ledger.robust))}
        self._show(done, component.name, f"{share:.0%}", seen)
        if STOP.asked():
            self.store.save(ledger, now=True)
            raise Preempted(f"{self.name} {component.name} at {share:.0%}")

    def finish(self) -> None:
        """The suite of this network is done, whatever was left to skip."""
        self._show(sum(self._works), "done", "100%", {})

    def _show(self, done: float, what: str, share: str, seen: dict) -> None:
        work = max(done - self._shown, 0.0)
        self.progress.update(work, f"{self.name} {what}", share, seen)
        self._shown = max(done, self._shown)
