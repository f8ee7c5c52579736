"""One file from which an offline training goes on bit for bit: what is trained on, and how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from wm_ros.contract.errors import UserError
from wm_ros.export.template import write_atomically
from wm_ros.runtime.artifact import TrainingBag
from wm_ros.training.config import AgentConfig

_KEY = "wm_ros"
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Plan:
    """All that decides how a training comes out."""

    contract: str
    """Canonical JSON."""
    agent: AgentConfig
    bags: tuple[TrainingBag, ...]
    """In the order in which their episodes are learned from."""
    refused: tuple[tuple[str, str], ...]
    """(bag, reason) of those that could not be used."""
    versions: dict[str, str]
    """Of the packages whose arithmetic shapes the result."""
    seed: int = 0
    holdout: float = 0.1
    """Share of the episodes that are kept from training, to measure the model."""
    namespace: str = ""
    force: bool = False
    threads: int = 1
    """Of torch: sums are split among them, so another number gives other last bits."""
    format: Literal[1] = 1


def write(path: Path, plan: Any, state: dict[str, Tensor]) -> None:
    """Writes the file whole, or leaves the old one; the plan is a dataclass of plain data.

    Raises:
        UserError: there is no room, or no permission.
    """
    data = save(state, {_KEY: TypeAdapter(type(plan)).dump_json(plan).decode()})
    try:
        write_atomically(path, data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}: mend this, then go on with --resume") from None


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Around what writes a training's files: a full or locked disk becomes an error that says how to go on.

    Raises:
        UserError: a file could not be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to: {error.strerror}: mend this, then go on with --resume") from None


def read_plan(path: Path, kind: type[Kind]) -> Kind:
    """What is trained, without how far it is: of a checkpoint with many recorded pictures, a small part.

    Raises:
        UserError: there is no checkpoint, it is damaged, or its plan is of another kind.
    """
    with _opened(path) as file:
        return TypeAdapter(kind).validate_json((file.metadata() or {})[_KEY])


def read(path: Path) -> tuple[Plan, dict[str, Tensor]]:
    """`read_as` for a training from bags."""
    return read_as(path, Plan)


def read_as(path: Path, kind: type[Kind]) -> tuple[Kind, dict[str, Tensor]]:
    """Reads what `write` wrote of a plan of this kind; no pickle.

    Raises:
        UserError: as for `read_plan`.
    """
    plan = read_plan(path, kind)
    with _opened(path) as file:
        return plan, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)


def holds(path: Path, kind: type) -> bool:
    """Whether the file is a checkpoint with a plan of this kind; False also where there is none."""
    try:
        read_plan(path, kind)
    except UserError:
        return False
    return True


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file, so there is nothing to go on with: leave --resume away to begin")
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError, KeyError, ValidationError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"{path}: damaged, or of another version: {why}: begin anew in another folder") from None
