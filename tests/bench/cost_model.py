"""What adversarial training should cost on a machine that is not here: arithmetic.

    python -m tests.bench.cost_model

Predicts the time of a step, the memory of a device and the time of a selection from
counts and a few stated rates; nothing is run. A step takes

    max(arithmetic / (share * peak), traffic / bandwidth) + reductions,

where traffic is what passes of an attack (12 times the activations of a forward pass)
and of an update (15 times) move, in bfloat16, and reductions are one all-reduce of the
gradients in float32 over a ring, and one of 2 C numbers for each BatchNorm layer in
each forward and backward pass, which costs its latency. With statistics of the running
averages in the attack (`attack_bn = "running"`) only those of the update are left.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """Rates in FLOP/s and byte/s; `share` of the peak that convolutions reach."""

    name: str
    peak: float
    bandwidth: float
    link: float
    latency: float
    memory: float
    share: float = 0.4


@dataclass(frozen=True)
class Net:
    """`side` of an image in pixels; `macs` of a forward pass, `activations` (numbers
    that convolutions write), both for an image; `params`; `norms` BatchNorm layers."""

    name: str
    side: int
    macs: float
    activations: float
    params: float
    norms: int

    def __str__(self) -> str:
        return f"{self.name} at {self.side}x{self.side}"


@dataclass(frozen=True)
class Case:
    """`steps` of the attack; `pool` images to score and `keep` of them to choose."""

    title: str
    net: Net
    chip: Chip
    devices: int
    batch: int
    images: float
    steps: int
    pool: float
    keep: float

    @property
    def arithmetic(self) -> float:
        """FLOP of a step on one device."""
        per_image = (2 * self.steps + 3) * 2 * self.net.macs
        return self.batch / self.devices * per_image

    @property
    def traffic(self) -> float:
        """Bytes that a step moves on one device."""
        passes = 12 * self.steps + 15
        return self.batch / self.devices * passes * 2 * self.net.activations

    def reductions(self, attack_bn: str) -> float:
        """Seconds of a step that devices wait for one another."""
        if self.devices == 1:
            return 0.0
        ring = 2 * (self.devices - 1) / self.devices
        gradients = ring * 4 * self.net.params / self.chip.link + self.chip.latency
        passes = 2 + (2 * self.steps if attack_bn == "batch" else 0)
        return gradients + passes * self.net.norms * self.chip.latency

    def step(self, attack_bn: str) -> float:
        """Seconds of a step."""
        chip = self.chip
        compute = self.arithmetic / (chip.share * chip.peak)
        busy = max(compute, self.traffic / chip.bandwidth)
        return busy + self.reductions(attack_bn)

    @property
    def memory(self) -> float:
        """Bytes on one device: weights, gradient, momentum and average in float32, what
        the update keeps of the forward pass, and the pool's share in uint8."""
        kept = self.batch / self.devices * 2 * 2 * self.net.activations
        # train.device_gb; larger ones stream.
        pool = min(self.images * 3 * self.net.side**2, 4e9)
        return 16 * self.net.params + kept + pool

    @property
    def selection(self) -> tuple[float, float]:
        """Seconds to score the pool under the attack, and to choose by top-K: every
        device sorts its share, and `keep` scores and indices are gathered."""
        chip = self.chip
        flops = self.pool * (2 * self.steps + 2) * 2 * self.net.macs
        scoring = flops / (self.devices * chip.share * chip.peak)
        sort = 32 * 8 * self.pool / self.devices / chip.bandwidth
        return scoring, sort + 8 * self.keep / chip.link

    def lines(self) -> list[str]:
        """The prediction as text."""
        one = self.step("running")
        epoch = self.images / self.batch * one
        scoring, choosing = self.selection
        return [
            f"{self.title}: {self.net}, PGD-{self.steps}, {self.devices} x "
            f"{self.chip.name}, batch {self.batch:,}",
            f"  step {one * 1e3:.1f} ms ({self.reductions('running') * 1e3:.1f} of it "
            f"reductions), {self.step('batch') * 1e3:.1f} ms with batch statistics in "
            f"the attack; {self.batch / one:,.0f} images/s, epoch {epoch:,.1f} s",
            f"  memory {self.memory / 1e9:.1f} GB of {self.chip.memory / 1e9:.0f}",
            f"  scoring {self.pool:,.0f} images {scoring:,.1f} s, choosing "
            f"{self.keep:,.0f} {choosing * 1e3:,.1f} ms",
        ]


H200 = Chip("H200", 790e12, 4.8e12, 450e9, 10e-6, 141e9)
V5E = Chip("TPU v5e", 197e12, 0.82e12, 100e9, 10e-6, 16e9)
RESNET18 = Net("ResNet-18", 32, 555e6, 0.615e6, 11.2e6, 20)
WRN = Net("WRN-28-10", 32, 5.243e9, 2.6e6, 36.5e6, 25)
RESNET50 = Net("ResNet-50", 224, 4.1e9, 11.1e6, 25.6e6, 53)
CASES = (
    Case("CIFAR-10", RESNET18, H200, 1, 512, 50e3, 10, 1e6, 25e3),
    Case("CIFAR-10", RESNET18, H200, 8, 1024, 50e3, 10, 1e6, 25e3),
    Case("CIFAR-10", WRN, H200, 8, 1024, 50e3, 10, 1e6, 25e3),
    Case("ImageNet-1K", RESNET50, H200, 64, 4096, 1.28e6, 3, 1.28e6, 640e3),
    Case("100M-image pool", RESNET18, V5E, 256, 8192, 100e6, 10, 100e6, 10e6),
)


def main() -> None:
    """Print every case."""
    for case in CASES:
        print("\n".join(case.lines()))


if __name__ == "__main__":
    main()
