"""wm-ros bench: measurements side by side with a peer, in one shape."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tyro

from wm_ros.cli.versions import versions
from wm_ros.contract import resources
from wm_ros.contract.errors import UserError

BENCHMARKS: dict[str, str] = {
    "bags": "benchmarks.bags:run",
    "dreamer": "benchmarks.dreamer:run",
    "equal_return": "benchmarks.equal_return:run",
    "logger": "benchmarks.logger:run",
    "loop": "benchmarks.loop:run",
    "perfect": "benchmarks.perfect:run",
    "planning": "benchmarks.planning:run",
    "sac": "benchmarks.sac:run",
    "train": "benchmarks.train:run",
}
"""Name → `module:function`; the function takes `quick: bool` and gives `Result`s, one by one where they take long; `page` of the same
module, where there is one, makes the published page of their records. Imported when it is run."""


@dataclass(frozen=True)
class Result:
    """One figure of ours beside a peer's, measured in the same run, medians over repeats."""

    name: str
    ours: float
    peer: float
    peer_version: str
    """Name and version of what we measure against."""
    unit: str
    higher_is_better: bool
    """Whether more of the unit is better; it decides which way the ratio is taken."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What one must know to repeat it: sizes, rates, repeats, threads."""

    @property
    def ratio(self) -> float | None:
        """Above 1 means that ours is better; None where one of the two is not a positive number."""
        if not (self.ours > 0 and self.peer > 0):
            return None
        return self.ours / self.peer if self.higher_is_better else self.peer / self.ours

    def line(self) -> str:
        """For people who wait."""
        ratio = "" if self.ratio is None else f", {self.ratio:.2f} times"
        return f"{self.name}: {self.ours:.4g} {self.unit}, peer {self.peer:.4g}{ratio}"

    def record(self) -> dict[str, Any]:
        """The published shape."""
        record = asdict(self)
        del record["higher_is_better"]
        return {**record, "ratio": self.ratio, "versions": versions()}


@dataclass(frozen=True)
class Bench:
    """Measure, side by side with a peer. `wm-ros bench list` names the benchmarks, `all` runs every one.

    Ctrl-C stops, and prints and writes what was measured until then.
    """

    name: tyro.conf.Positional[str]
    """Benchmark to run, `all`, or `list`."""
    quick: bool = False
    """Ends within a minute on two cores."""
    minutes: float | None = None
    """loop: of each of its runs; 10 s where it is not given."""
    rates: tuple[float, ...] = ()
    """loop: these control rates alone, in Hz; what --write finds of the others stays."""
    json: bool = False
    """Print a JSON list of records in place of a table."""
    write: Path | None = None
    """Folder for one Markdown table per benchmark, and its records as JSON."""

    def run(self) -> int:
        """Runs the chosen benchmarks and prints what they found."""
        if self.name == "list":
            print("\n".join(sorted(BENCHMARKS)))
            return 0
        names = sorted(BENCHMARKS) if self.name == "all" else [self.name]
        if self.minutes is not None and (names != ["loop"] or self.quick or not self.minutes > 0):
            raise UserError("bench: --minutes is for loop, above 0 and without --quick: wm-ros bench loop --minutes 10")
        if self.rates and (names != ["loop"] or self.quick or min(self.rates) <= 0):
            raise UserError("bench: --rates is for loop, above 0 and without --quick: wm-ros bench loop --rates 50 100")
        loaded = {name: _load(name) for name in names}
        options: dict[str, Any] = {} if self.minutes is None else {"minutes": self.minutes}
        if self.rates:
            options["rates_hz"] = self.rates
        found: list[dict[str, Any]] = []
        try:
            for name, (function, page) in loaded.items():
                records: list[dict[str, Any]] = []
                try:
                    for result in function(self.quick, **options):
                        records.append(result.record())
                        print(f"bench {name}: {result.line()}", file=sys.stderr, flush=True)
                finally:
                    found += records
                    if self.write is not None and records:
                        self._publish(self.write, name, records, page)
        except KeyboardInterrupt:
            where = "" if self.write is None else f", which are in {self.write}"
            raise KeyboardInterrupt(f"{len(found)} figures were measured{where}") from None
        finally:
            print(json.dumps(found, indent=2) if self.json else table(found))
        return 0

    def _publish(self, folder: Path, name: str, records: list[dict[str, Any]], page: Callable[[list[dict[str, Any]]], str]) -> None:
        kept = folder / f"{name}.json"
        if self.rates and kept.is_file():
            new = {record["name"] for record in records}
            records = [record for record in json.loads(kept.read_text(encoding="utf-8")) if record["name"] not in new] + records
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(records, indent=1), encoding="utf-8")
        (folder / f"{name}.md").write_text(f"# {name}\n\n{page(records)}\n", encoding="utf-8")


def _load(name: str) -> tuple[Callable[..., Iterable[Result]], Callable[[list[dict[str, Any]]], str]]:
    """What measures, and what makes the page of its records."""
    if name not in BENCHMARKS:
        raise UserError(f"bench {name}: no such benchmark; there are: {', '.join(sorted(BENCHMARKS)) or 'none'}")
    module, _, function = BENCHMARKS[name].partition(":")
    # benchmarks/ stands beside the package's source and is not installed.
    root = str(resources.share_directory())
    if not (Path(root) / "benchmarks").is_dir():
        raise UserError("bench: there is no benchmarks/ folder beside this installation: run it from a source checkout")
    if root not in sys.path:
        sys.path.insert(0, root)
    found = importlib.import_module(module)
    return getattr(found, function), getattr(found, "page", table)


def table(records: list[dict[str, Any]]) -> str:
    """Records as a Markdown table."""
    rows = ["| what | ours | peer | unit | ratio | peer's version | settings |", "|---|---|---|---|---|---|---|"]
    for record in records:
        settings = ", ".join(f"{key} {value}" for key, value in record["settings"].items())
        ratio = "–" if record["ratio"] is None else f"{record['ratio']:.2f}"
        row = (record["name"], f"{record['ours']:.4g}", f"{record['peer']:.4g}", record["unit"], ratio, record["peer_version"], settings)
        rows.append(f"| {' | '.join(row)} |")
    return "\n".join(rows)
