"""What a controller imagines for people, as a loop behind its graph: one step is exported, and repeated by ONNX's Loop.

Written out, fifteen steps of networks take a minute to export; and `runtime.acting_graph` cuts the loop off as one node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from wm_ros.agents.controller import Controller
from wm_ros.runtime.artifact import NEXT_PREFIX, NOISE_PREFIX

_INSIDE = "ahead/"
"""Begins the name of every value in the loop: none may be called like one outside."""

GraphOf = Callable[[nn.Module, tuple[Tensor, ...], list[str], list[str]], onnx.ModelProto]


class _Further(nn.Module):
    def __init__(self, controller: Controller) -> None:
        super().__init__()
        self.controller = controller

    def forward(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self.controller.look_further(state)


class _Positional(nn.Module):
    """One step with state and weights as positional inputs."""

    def __init__(self, controller: Controller, weights: list[str]) -> None:
        super().__init__()
        self._further = [_Further(controller)]  # in a list: its parameters must not be this module's
        self._states, self._weights = list(controller.looks_from), weights
        self.shown: list[str] = []

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        count = len(self._states)
        weights = {f"controller.{name}": value for name, value in zip(self._weights, values[count:], strict=True)}
        state = dict(zip(self._states, values[:count], strict=True))
        after, shown = torch.func.functional_call(self._further[0], weights, (state,))
        self.shown = list(shown)
        return (*(after[name].clone() for name in self._states), *(value.clone() for value in shown.values()))


def with_look_ahead(model: onnx.ModelProto, controller: Controller, weights: Mapping[str, Tensor], graph_of: GraphOf) -> onnx.ModelProto:
    """The controller's graph with a loop of `controller.look_ahead` steps behind it.

    Args:
        model: the controller's graph, weights as inputs `weights.<name>`; is changed.
        controller: what looks ahead.
        weights: of it, by name.
        graph_of: exports a module.
    """
    module = _Positional(controller, list(weights)).eval()
    arguments = (*(torch.zeros(shape) for shape in _shapes(controller).values()), *(w.detach() for w in weights.values()))
    with torch.no_grad():
        module(*arguments)  # fills in module.shown
    states, outside = list(controller.looks_from), [f"weights.{name}" for name in weights]
    step = graph_of(module, arguments, [*states, *outside], [*(f"next {name}" for name in states), *module.shown])
    if len(step.functions):
        raise ValueError("the step's graph has functions of its own")
    graph = model.graph
    there = {i.name for i in graph.input}
    graph.input.extend(i for i in step.graph.input if i.name in outside and i.name not in there)
    own = [i for i in step.graph.input if i.name in states]
    _rename(step.graph, {name: _INSIDE + name for name in _made_in(step.graph) | set(states)})
    body = helper.make_graph(
        [*step.graph.node, helper.make_node("Identity", [_INSIDE + "go"], [_INSIDE + "go on"])],
        "look_ahead",
        [
            helper.make_tensor_value_info(_INSIDE + "number", TensorProto.INT64, ()),
            helper.make_tensor_value_info(_INSIDE + "go", TensorProto.BOOL, ()),
            *own,
        ],
        [helper.make_tensor_value_info(_INSIDE + "go on", TensorProto.BOOL, ()), *step.graph.output],
        initializer=list(step.graph.initializer),
    )
    graph.initializer.append(numpy_helper.from_array(np.array(controller.look_ahead, np.int64), "look_ahead"))
    ends = [f"look_ahead {name}" for name in states]
    graph.node.append(helper.make_node("Loop", ["look_ahead", "", *controller.looks_from.values()], [*ends, *module.shown], body=body))
    for name, one in zip(module.shown, list(step.graph.output)[len(states) :], strict=True):
        tensor = one.type.tensor_type
        dims = [d.dim_value for d in tensor.shape.dim]
        graph.output.append(helper.make_tensor_value_info(name, tensor.elem_type, [controller.look_ahead, *dims]))
    return model


def imagined(controller: Controller, following: Mapping[str, Tensor], noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What torch computes for the outputs of the loop.

    Args:
        controller: what looks ahead, if it does.
        following: the carry of the next tick, by name.
        noise: of the tick, by name.
    """
    values = {**{NEXT_PREFIX + n: v for n, v in following.items()}, **{NOISE_PREFIX + n: v for n, v in noise.items()}}
    state = {name: values[source] for name, source in controller.looks_from.items()}
    shown: list[dict[str, Tensor]] = []
    for _ in range(controller.look_ahead):
        state, one = controller.look_further(state)
        shown.append(one)
    return {name: torch.stack([one[name] for one in shown]) for name in shown[0]} if shown else {}


def _shapes(controller: Controller) -> dict[str, tuple[int, ...]]:
    """State → shape, as its source outside has it."""
    sources = {NEXT_PREFIX + n: s for n, s in controller.carry.items()} | {NOISE_PREFIX + n: s.shape for n, s in controller.noise.items()}
    return {name: sources[source] for name, source in controller.looks_from.items()}


def _made_in(graph: Any) -> set[str]:
    """Names of the values that a graph and those inside it make."""
    names = {t.name for t in graph.initializer} | {o for node in graph.node for o in node.output if o}
    for inner in _inside(graph):
        names |= _made_in(inner) | {i.name for i in inner.input}
    return names


def _inside(graph: Any) -> list[Any]:
    return [g for node in graph.node for a in node.attribute for g in ([a.g] if a.HasField("g") else [*a.graphs])]


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    for inner in _inside(graph):
        _rename(inner, names)
