"""Refuses ONNX files that reach outside themselves: custom operators and external data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from wm_ros.contract.errors import UserError

STANDARD_DOMAINS = ("", "ai.onnx")


def _graphs(graph: Any) -> Iterator[Any]:
    """`graph` and every graph inside it: the bodies of Loop, If and Scan."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)


def _node_tensors(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in [*attribute.sparse_tensors, *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else [])]:
                yield from (sparse.values, sparse.indices)


def check_self_contained(data: bytes, where: str) -> None:
    """Reads the model without running it.

    Args:
        data: the ONNX file.
        where: named in the error.

    Raises:
        UserError: it is no ONNX model, uses an operator that is not of the ONNX standard, or keeps tensors in other files.
    """
    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # protobuf's DecodeError has no public home that all its implementations share
        raise UserError(f"{where}: no ONNX model, or a corrupt one: copy or export it again") from None
    # protobuf hands out what is no UTF-8 as bytes.
    if not all(isinstance(value.name, str) for value in (*model.graph.input, *model.graph.output)):
        raise UserError(f"{where}: a name that is no text: the file is corrupt, copy or export it again")
    local = {(f.domain, f.name) for f in model.functions}
    graphs = list(_graphs(model.graph))
    nodes = [node for graph in graphs for node in graph.node]
    # A function's body has nodes like a graph, but no initializers.
    for function in model.functions:
        inner = [g for node in function.node for a in node.attribute for g in (a.g, *a.graphs)]
        graphs += [g for outer in inner for g in _graphs(outer)]
        nodes += [*function.node, *(node for outer in inner for g in _graphs(outer) for node in g.node)]
    foreign = sorted({f"{n.domain}::{n.op_type}" for n in nodes if n.domain not in STANDARD_DOMAINS and (n.domain, n.op_type) not in local})
    if foreign:
        raise UserError(f"{where}: operators outside the ONNX standard ({', '.join(foreign[:5])}): export it with standard operators only")
    tensors = [*(t for graph in graphs for t in _tensors(graph)), *_node_tensors(nodes)]
    external = sorted({t.name or "(unnamed)" for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL or len(t.external_data)})
    if external:
        raise UserError(f"{where}: tensors {', '.join(external[:5])} lie in other files: export it as one self-contained file")
