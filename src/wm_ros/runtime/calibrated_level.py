"""The level of disagreement that comes with a controller: what its ensemble disagreed about recorded data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.runtime.artifact import Metadata, Part

KEY = "disagreement"
"""In the metadata's `calibration`."""


class Level(Part):
    """A quantile of the disagreement about recorded stretches as long as a plan, measured at export."""

    level: Annotated[float, Field(gt=0)]
    quantile: Annotated[float, Field(gt=0, lt=1)]
    scale: tuple[Annotated[float, Field(gt=0)], ...]
    """Of each observation column: spreads are counted in these."""
    windows: Annotated[int, Field(ge=1)]
    """Stretches that the quantile is taken from."""
    data: Literal["held_out", "training"]
    """Whether the model had learned from them."""


def level_of(metadata: Metadata, contract: Contract, has_spread: bool, where: str) -> Level | None:
    """The calibrated level of a controller; None where it has none.

    Raises:
        UserError: the level is damaged, or the contract asks for an action on disagreement which this controller gives no measure for.
    """
    given = metadata.calibration.get(KEY)
    if given is None:
        if has_spread and contract.safety.on_disagreement != "report":
            wanted = f"safety.on_disagreement: {contract.safety.on_disagreement}"
            raise UserError(f"{where}: has no calibrated disagreement, which the contract's {wanted} needs: export it again")
        return None
    try:
        level = Level.model_validate(given)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"])
        raise UserError(f"{where}: metadata: calibration.{KEY}.{field}: {fault['msg']}: export the controller again") from None
    if len(level.scale) != contract.observation_size:
        sizes = f"{len(level.scale)} columns, the contract has {contract.observation_size}"
        raise UserError(f"{where}: metadata: calibration.{KEY}.scale has {sizes}: export the controller again")
    return level
