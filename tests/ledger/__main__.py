"""`python -m tests.ledger`: brings back the faults of the table, and fails if a test does not notice one."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time

from tests.ledger.processes import Processes
from tests.ledger.runner import Verdict, bring_back, seconds_since, summary
from tests.ledger.table import PAGE, ROOT, page, problems, read_table


def show(verdict: Verdict) -> None:
    """Prints a row of the table."""
    print(f"{verdict.result:<9}{verdict.seconds:5.1f} s  {verdict.fault.name:<44} {verdict.line[:150]}", flush=True)


def main() -> int:
    """Returns 0 if each fault that was brought back was noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.ledger", description=__doc__)
    parser.add_argument("-n", type=int, default=2, help="processes at the same time (2)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only faults whose names contain one of these")
    parser.add_argument(
        "--write-page", action="store_true", help=f"write {PAGE} from the table, and bring back nothing"
    )
    options = parser.parse_args()
    faults = read_table()
    if options.write_page:
        (ROOT / PAGE).write_text(page(faults))
        return 0
    if found := problems(faults):
        print("\n".join(found))
        return 1
    if options.only:
        faults = [fault for fault in faults if any(part in fault.name for part in options.only)]
    started = time.monotonic()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    verdicts = bring_back(faults, Processes(options.n), show=show, tell=functools.partial(print, flush=True))
    print(summary(verdicts, faults, seconds_since(started)))
    return 0 if all(verdict.ok for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
