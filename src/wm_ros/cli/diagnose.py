"""wm-ros diagnose: how well a model imagines what was recorded."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from wm_ros.contract.errors import UserError

if TYPE_CHECKING:
    from wm_ros.training.bag_set import BagSet
    from wm_ros.training.diagnose import Diagnosis
    from wm_ros.training.foresight import Foresight
    from wm_ros.training.stored_model import StoredModel

RESULT = "diagnosis.json"


@dataclass(frozen=True)
class Diagnose:
    """Measure a model on recorded bags: open-loop error, calibration, growth of the error, where the ensemble disagrees; of a latent model
    also the reward, and the pictures of its cameras, as films."""

    model: Path
    """Folder of a run or of one of its versions (the newest is taken), a file in it, or the checkpoint.safetensors of a training."""
    bag: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """rosbag2 directories, storage files, folders of bags, or globs; best ones that the model has not learned from."""
    horizon: int | None = None
    """Model steps to look ahead; by default as far as the planner, or the imagination that taught the policy."""
    context: int = 20
    """Of a latent model: recorded ticks that it sees before it imagines."""
    out: Path | None = None
    """Folder for diagnosis.json and the pictures; by default `diagnosis` beside the model."""
    seed: int = 0
    """Of the imagined particles."""
    starts: int = 1000
    """About how many recorded states to imagine from, spread over the episodes."""
    particles: int = 20
    """Drawn futures of each member and start."""
    namespace: str = ""
    """Of the robot's topics in the bags."""
    force: bool = False
    """Take bags that were recorded under another contract."""

    def run(self) -> int:
        """Measures, prints a table, and says where the files are."""
        for name in ("horizon", "starts", "particles"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{name}: {value} must be at least 1")
        if self.context < 0:
            raise UserError(f"context: {self.context} must not be negative")
        if not any(self.bag):
            raise UserError("bag: missing: give --bag with recorded episodes")
        from wm_ros.training import bag_set, stored_model
        from wm_ros.training.diagnose import diagnose

        stored = stored_model.load(self.model)
        contract = stored.contract
        paths, nothing = bag_set.find(pattern for patterns in self.bag for pattern in patterns)
        data = bag_set.read(paths, contract, 1, namespace=self.namespace, force=self.force)
        refused = [reason for _, reason in (*nothing, *data.refused)]
        if not data.bags:
            raise UserError("\n".join(refused))
        for reason in refused:
            print(f"not used: {reason}")
        horizon = stored.horizon if self.horizon is None else self.horizon
        foresight = stored.before([e for of in data.episodes for e in of], self.context)
        found = diagnose(
            foresight,
            [(bag.path, [foresight.columns(e) for e in of]) for bag, of in zip(data.bags, data.episodes, strict=True)],
            horizon,
            contract.control.period_s,
            foresight.names(contract.observation_names),
            seed=self.seed,
            starts=self.starts,
            particles=self.particles,
        )
        if found is None:
            longest = max(len(e) for of in data.episodes for e in of)
            stride, context = foresight.stride, foresight.context
            behind = f" behind a context of {context}" if context else ""
            raise UserError(
                f"horizon: {horizon} model steps of {stride} ticks are {horizon * stride} ticks{behind}, and the longest episode "
                f"has {longest}: "
                f"look at most {max(0, longest - context) // stride} steps ahead, or give longer episodes"
            )
        folder = self.out.expanduser() if self.out is not None else stored.path.parent / "diagnosis"
        written = self._write(folder, stored, data, found, foresight)
        _show(stored, data, found, foresight.stride)
        print("\n".join(str(path) for path in written))
        return 0

    def _write(self, folder: Path, stored: StoredModel, data: BagSet, found: Diagnosis, foresight: Foresight) -> list[Path]:
        import torch

        from wm_ros.cli.versions import versions
        from wm_ros.export.template import write_atomically
        from wm_ros.viz.model_diagnosis import write_plots
        from wm_ros.viz.open_loop_film import write_film

        seen = {bag.sha256 for bag in stored.training_bags}
        record: dict[str, Any] = {
            "model": str(stored.path),
            "model_sha256": _sha256(stored.path),
            "family": stored.family,
            "members": stored.what,
            "stride": foresight.stride,
            "context": foresight.context,
            "contract": stored.contract.name,
            "contract_hash": stored.contract.hash,
            "seed": self.seed,
            "particles": self.particles,
            "bags": [
                {**bag.model_dump(), "episodes": len(of), "ticks": sum(map(len, of)), "learned_from": bag.sha256 in seen}
                for bag, of in zip(data.bags, data.episodes, strict=True)
            ],
            "not_used": [reason for _, reason in data.refused],
            "versions": versions(),
            "result": found.as_dict(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            plots = write_plots(record["result"], folder, _units(stored))
            for camera, film in foresight.films(len(found.horizon_s), torch.Generator().manual_seed(self.seed)).items():
                plots += write_film(film.recorded, film.imagined, film.seen, camera, folder, stored.contract.control.period_s)
            write_atomically(folder / RESULT, json.dumps(record, indent=1, allow_nan=False).encode())
        except OSError as error:
            raise UserError(f"out: {folder}: {error.strerror}: give another folder") from None
        return [folder / RESULT, *plots]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _units(stored: StoredModel) -> dict[str, str]:
    """Column → its unit; sine, cosine and reward have none."""
    features = [f for c in stored.contract.observation for f in c.features]
    units = {column: f.units if f.encoding == "identity" else "1" for f in features for column in f.columns}
    return units | {"reward": "1"}


def _show(stored: StoredModel, data: BagSet, found: Diagnosis, stride: int) -> None:
    """The tables, and what they come to in words."""
    episodes = sum(map(len, data.episodes))
    print(f"{stored.family} model, {stored.what}, {stride} {'ticks' if stride > 1 else 'tick'} per model step")
    print(f"{len(data.bags)} bags, {episodes} episodes, {found.starts} starts")
    seen = {bag.sha256 for bag in stored.training_bags}
    known = sum(bag.sha256 in seen for bag in data.bags)
    if known:
        print(f"warning: the model has learned from {known} of these bags: on new ones it is worse")
    ahead = _table("step", "seconds", "error", "no change", "in 50 %", "in 90 %", "in 95 %")
    for h in _chosen(len(found.horizon_s)):
        shares = [sum(found.coverage[p][h]) / len(found.columns) for p in ("50", "90", "95")]
        figures = (f"{found.normalized_rmse[h]:.3f}", f"{found.unchanged[h]:.3f}", *(f"{100 * s:.0f} %" for s in shares))
        ahead.add_row(str(h + 1), f"{found.horizon_s[h]:.2f}", *figures)
    steps, units = len(found.horizon_s), _units(stored)
    columns = _table("column", "unit", "step 1", f"step {steps}", "in 90 %", "growth", "ε", "L")
    for i, name in enumerate(found.columns):
        growth = found.growth_of[name]
        law = (f"{growth.linear_eps:.2g}", "1") if growth.better == "linear" else (f"{growth.eps:.2g}", f"{growth.rate:.3f}")
        inside = f"{100 * found.coverage['90'][-1][i]:.0f} %"
        columns.add_row(name, units[name], f"{found.rmse[0][i]:.2g}", f"{found.rmse[-1][i]:.2g}", inside, growth.better, *law)
    # Where there is no terminal there is no width to keep to, and a cut name helps nobody.
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=160)
    console.print("\nerror in deviations of the recorded columns; share of the recorded values in predicted intervals", markup=False)
    console.print(ahead)
    console.print("error by column, in its unit; how it grows per model step", markup=False)
    console.print(columns)
    for camera, pictures in found.pictures.items():
        ends = f"{pictures.rmse[0]:.3f} one step ahead, {pictures.rmse[-1]:.3f} at the end (no change: {pictures.unchanged[-1]:.3f})"
        print(f"{camera}: error of the pictures {ends}, {pictures.starts} starts; 1 is black against white")
    growth = found.growth
    print(f"growth of the error: {growth.better}")
    print(f"  linear       ε h                  ε = {growth.linear_eps:.3g}, leaves {100 * growth.linear_misfit:.1f} %")
    print(f"  exponential  ε (L^h - 1)/(L - 1)  ε = {growth.eps:.3g}, L = {growth.rate:.3f}, leaves {100 * growth.misfit:.1f} %")
    if (apart := found.disagreement) is not None:
        most = max(apart.columns, key=lambda name: apart.columns[name])
        top, everywhere = apart.most[most]
        print(
            f"disagreement: most in {most}, {apart.columns[most]:.2g} deviations one step ahead; where it is large the median of {most} is "
            f"{top:.3g}, everywhere {everywhere:.3g}\n  rank correlation with the true error {apart.knows_its_error:.2f}"
        )


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _chosen(steps: int) -> list[int]:
    """Rows of the table: 1, 2, 4, 8 ... and the last."""
    powers = [2**k - 1 for k in range(steps.bit_length()) if 2**k <= steps]
    return sorted({*powers, steps - 1})
