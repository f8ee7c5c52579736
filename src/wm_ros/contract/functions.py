"""Turns a contract's reward and termination references into callables over plain arrays."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from wm_ros.contract.columns import Columns
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract, Function

ArrayFunction = Callable[[Any, Any, Any], Any]
"""(observation [..., O], action [..., A], next observation [..., O]) → [...]"""


def _resolve(reference: Function, field: str) -> Callable[..., Any]:
    if reference.learned:
        raise UserError(
            f"contract: {field}: it is learned, and this needs a function: name one in the contract, or train from bags that record it"
        )
    module_name, _, function_name = reference.function.partition(":")
    package = module_name.partition(".")[0]
    if package != "wm_ros" and package not in importlib.metadata.packages_distributions():
        raise UserError(
            f"contract: {field}.function: {package!r} is not an installed package: install it with pip; paths are not loaded"
        )
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"contract: {field}.function: {reference.function}: {error}") from None
    if not callable(function):
        raise UserError(f"contract: {field}.function: {reference.function} is not a function")
    try:
        inspect.signature(function).bind(None, None, None, **reference.parameters)
    except TypeError as error:
        raise UserError(f"contract: {field}.parameters: {reference.function}: {error}") from None
    return function  # type: ignore[no-any-return]


def _over_arrays(contract: Contract, reference: Function, field: str) -> ArrayFunction:
    function = _resolve(reference, field)
    observations, actions = contract.observation_names, contract.action.names

    def call(observation: Any, action: Any, next_observation: Any) -> Any:
        return function(
            Columns(observation, observations),
            Columns(action, actions),
            Columns(next_observation, observations),
            **reference.parameters,
        )

    nothing = np.zeros(len(observations), np.float32)
    try:
        with np.errstate(all="ignore"):
            call(nothing, np.zeros(len(actions), np.float32), nothing)
    except (KeyError, ValueError, TypeError) as error:
        reason = error.args[0] if error.args else error
        raise UserError(f"contract: {field}: {reference.function}: {reason}: correct its parameters") from None
    return call


def reward_function(contract: Contract) -> ArrayFunction:
    """The contract's reward per tick, scale included.

    Raises:
        UserError: the reference names no function of an installed package, or its parameters do not fit.
    """
    function, scale = _over_arrays(contract, contract.reward, "reward"), contract.reward.scale
    return lambda observation, action, next_observation: scale * function(observation, action, next_observation)


def termination_function(contract: Contract) -> ArrayFunction | None:
    """The contract's termination (true where the episode ends in a final state), or None where it has none.

    Raises:
        UserError: as for `reward_function`.
    """
    return None if contract.termination is None else _over_arrays(contract, contract.termination, "termination")
