"""Every kind of row by its name."""

from collections.abc import Callable

from tests.bench import rows, whole_rows
from tests.bench.found import Found
from tests.bench.plan import Plan, Row

KINDS: dict[str, Callable[[Row, Plan], Found]] = {
    "pgd_at": rows.training,
    "trades": rows.training,
    "nfgsm": rows.training,
    "scoring": rows.scoring,
    "selection": rows.selection,
    "craig": whole_rows.coreset,
    "gradmatch": whole_rows.coreset,
    "autoattack": whole_rows.evaluation,
    "certify": whole_rows.certification,
    "sampling": whole_rows.sampling,
}
