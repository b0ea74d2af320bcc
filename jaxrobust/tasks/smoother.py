"""One smoothed network on all test images: its certificates, its row, its checks."""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrobust import data, rng, sharding
from jaxrobust.errors import UserError
from jaxrobust.evaluators import certificate, smoothing
from jaxrobust.evaluators.certificate import Certificates
from jaxrobust.evaluators.check import Check
from jaxrobust.evaluators.passes import AccuracyPass
from jaxrobust.evaluators.proof import enough_images
from jaxrobust.loader import Feed, Pool, padded_rows, take_rows, to_unit
from jaxrobust.progress import Progress
from jaxrobust.tasks.certificates import CertificateFile, Table
from jaxrobust.tasks.fit import STOP, Preempted
from jaxrobust.tasks.results import Row
from jaxrobust.tasks.setup import Config, build_pass
from jaxrobust.threat import ThreatModel
from jaxrobust.types import LogitsFn
from jaxrobust.workdir import Workdir, stage_folder

CURVE_POINTS = 41

_take = jax.jit(take_rows, static_argnums=3)


@dataclass(frozen=True)
class Smoother:
    """What all networks of a run share; `spec` is `config.certify`."""

    spec: Config
    test: data.ImageSet
    threat: ThreatModel
    mesh: Mesh

    def __post_init__(self):
        # Read here so that a mistake shows before anything is written.
        spec = self.spec
        for sides in (smoothing.CERTIFY_SIDES, smoothing.PREDICT_SIDES):
            certificate.check_draws(spec["sigma"], spec["n"], spec["alpha"], sides)
        for key in ("n0", "noise_batch", "group_images", "every"):
            if spec[key] < 1:
                raise UserError(f"certify.{key} must be at least 1, not {spec[key]}")

    @cached_property
    def index(self) -> np.ndarray:
        """The test images to certify."""
        return np.arange(0, len(self.test), self.spec["every"])

    @cached_property
    def feed(self) -> Feed:
        """Hands them to the device."""
        return Feed(Pool((self.test,)), self.mesh, device_gb=4.0)

    @cached_property
    def key(self) -> jax.Array:
        """The key of all noise."""
        key = rng.purpose_key(self.spec["noise_seed"], "eval")
        return sharding.replicate_key(key, self.mesh)

    @cached_property
    def clean(self) -> AccuracyPass:
        """Accuracy of the network itself, without noise."""
        size = min(len(self.index), 512) // self.mesh.devices.size or 1
        size *= self.mesh.devices.size
        return build_pass({"name": "none"}, self.threat, size, self.mesh)

    @property
    def work(self) -> float:
        """Forward passes of one image that a network takes."""
        return float(len(self.index) * (self.spec["n0"] + self.spec["n"]))

    @property
    def threat_radius(self) -> float:
        """The l2 radius that holds the threat."""
        return certificate.l2_radius(self.threat, self.test.image[0].size)

    @property
    def farthest(self) -> float:
        """The radius that no certificate can exceed."""
        spec = self.spec
        return certificate.largest_radius(spec["sigma"], spec["n"], spec["alpha"])

    def examine(
        self,
        name: str,
        seed: int,
        logits_fn: LogitsFn,
        workdir: Workdir,
        progress: Progress,
    ) -> Row:
        """The row of a network; goes on with the certificates of a killed run."""
        stage = stage_folder(name, seed)
        path = workdir.path / "certificates" / f"{stage}.tsv"
        started = time.monotonic()
        table = self._certify_all(stage, path, logits_fn, progress)
        seconds = time.monotonic() - started
        clean = self.clean(logits_fn, self.feed, self.index, self.key, self.threat)
        checks = self._checks(table, logits_fn)
        return {
            "clean_acc": clean.value,
            **self._summary(table),
            "certify_seconds": seconds,
            "certificates": str(path.relative_to(workdir.path)),
            "checks": [list(check) for check in checks],
        }

    def _certify_all(
        self, stage: str, path: Path, logits_fn: LogitsFn, progress: Progress
    ) -> Table:
        file = CertificateFile(path)
        done = file.done(self.index)
        progress.skip(self.work * float(done.mean()))
        groups, real = padded_rows(self.index, self.spec["group_images"])
        finished = np.resize(done, groups.shape) | ~real
        for group, known in zip(groups, finished):
            # Always the same groups: a resumed run computes what the killed one would.
            if known.all():
                continue
            started = time.monotonic()
            found = self._certify(logits_fn, group)
            seconds = (time.monotonic() - started) / len(group)
            fresh = Certificates(*(values[~known] for values in found))
            place = group[~known]
            file.append(place, self.test.label[place], fresh, seconds)
            work = self.work * len(place) / len(self.index)
            last = f"{group[0]}/{len(self.test)}"
            seen = {"mean radius": float(np.mean(found.radius))}
            progress.update(work, f"{stage} certify", last, seen)
            if STOP.asked():
                raise Preempted(f"{stage} certificates at image {last}")
        return file.read()

    def _certify(self, logits_fn: LogitsFn, place: np.ndarray) -> Certificates:
        image, _ = _take(*self.feed(place), self.mesh)
        spec = self.spec
        return smoothing.certify(
            logits_fn,
            to_unit(image),
            rng.per_example(self.key, jnp.asarray(place)),
            sigma=spec["sigma"],
            n0=spec["n0"],
            n=spec["n"],
            alpha=spec["alpha"],
            noise_batch=spec["noise_batch"],
            mesh=self.mesh,
        )

    def _summary(self, table: Table) -> Row:
        spec, threat, radius = self.spec, self.threat, table.radius
        accuracy = lambda radii: certificate.certified_accuracy(
            radius, table.correct, radii
        )
        smoothed, certified = accuracy([0.0, self.threat_radius])
        points = np.linspace(0.0, self.farthest, CURVE_POINTS).tolist()
        radii = list(map(float, spec["radii"]))
        sure = certificate.sure_accuracy(
            certified, spec["alpha"], len(radius), spec["rho"]
        )
        return {
            "smoothed_acc": smoothed,
            "certified_acc": certified,
            "sure_certified_acc": sure,
            "radius": certificate.average_radius(radius, table.correct),
            "abstained": float(np.mean(table.predict == certificate.ABSTAIN)),
            "l2_radius": self.threat_radius,
            "eps": float(threat.eps),
            "norm": threat.norm,
            **{key: spec[key] for key in ("sigma", "n0", "n", "alpha")},
            "images": len(radius),
            "certified_at": [list(pair) for pair in zip(radii, accuracy(radii))],
            "certified_curve": [list(pair) for pair in zip(points, accuracy(points))],
        }

    def _checks(self, table: Table, logits_fn: LogitsFn) -> list[Check]:
        largest = float(np.max(table.radius))
        certified = table.correct & (table.radius >= self.threat_radius)
        return [
            self._recount(table, logits_fn),
            Check(
                "no radius beyond what n draws can prove",
                largest <= self.farthest * (1 + 1e-12),
                f"largest {largest:.4f}, bound {self.farthest:.4f}",
                "sigma Phi^-1(alpha^(1/n))",
            ),
            Check(
                "the threat is within reach of the certificate",
                self.threat_radius <= self.farthest,
                f"needs l2 {self.threat_radius:.4f}, at most {self.farthest:.4f}",
                "certified accuracy is 0 beyond: use a larger sigma or n",
            ),
            enough_images(int(certified.sum()), len(certified)),
        ]

    def _recount(self, table: Table, logits_fn: LogitsFn) -> Check:
        """The first group again: other weights or other noise would show."""
        group = padded_rows(self.index, self.spec["group_images"])[0][0]
        again = self._certify(logits_fn, group)
        place = np.searchsorted(table.idx, group)
        same = [
            np.array_equal(getattr(again, name), getattr(table, name)[place])
            for name in Certificates._fields
        ]
        return Check(
            "certificates repeat bit for bit",
            all(same),
            f"{len(set(group.tolist()))} images counted again",
            "noise depends on image and draw, the network on nothing else",
        )
