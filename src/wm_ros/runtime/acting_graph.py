"""The part of a controller's graph that a robot needs to act: what is only for people to look at is cut off.

onnxruntime computes every node of a graph, whatever is asked for, and imagined pictures cost more than the action itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from wm_ros.runtime import artifact

_WITH_PICTURES = (artifact.PLAN_ACTION, artifact.PLAN_OBSERVATION)
"""A policy that imagines pictures imagines its plan for people as well. A planner's plan costs nothing more."""


def acting_graph(data: bytes) -> bytes | None:
    """The model without imagined pictures and all that only they need; None where it has none.

    Args:
        data: an ONNX file that `onnx_check` has passed.
    """
    model = onnx.load_model_from_string(data)
    outputs = [output.name for output in model.graph.output]
    if not any(name.startswith(artifact.IMAGINED_PREFIX) for name in outputs):
        return None
    kept = [o for o in model.graph.output if not (o.name.startswith(artifact.IMAGINED_PREFIX) or o.name in _WITH_PICTURES)]
    needed = {output.name for output in kept}
    nodes = []
    for node in reversed(model.graph.node):  # ONNX wants them in the order of their dependencies
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(_reads(node))
    initializers = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    for field, values in (("node", nodes[::-1]), ("output", kept), ("initializer", initializers)):
        kept_values = [type(value).FromString(value.SerializeToString()) for value in values]
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(kept_values)
    model.graph.ClearField("value_info")
    return bytes(model.SerializeToString())


def _reads(node: Any) -> Iterator[str]:
    """Names that a node reads, those included that the bodies of Loop, If and Scan read from outside."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (output.name for output in graph.output)
            for inner in graph.node:
                yield from _reads(inner)
