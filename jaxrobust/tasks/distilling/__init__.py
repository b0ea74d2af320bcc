"""Ways to distil: each makes a `Distiller` out of a `Setup`, its own settings and,
where a loss of real images is involved, the method `real` that they are learnt by."""

from jaxrobust.tasks.distilling.matching import dc, dm, dsa
from jaxrobust.tasks.distilling.sre2l import SRe2L
from jaxrobust.tasks.distilling.trajectories import mtt, tesla

METHODS = {
    "dc": dc,
    "dm": dm,
    "dsa": dsa,
    "mtt": mtt,
    "sre2l": SRe2L,
    "tesla": tesla,
}
