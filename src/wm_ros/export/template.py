"""A controller's ONNX graph without its weights: exported once per configuration, filled after every training."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import wm_ros
from wm_ros.agents.controller import Controller
from wm_ros.contract.schema import Contract
from wm_ros.export.look_ahead import with_look_ahead

_PREFIX = "weights."
_ROOMS_IN_THE_GRAPH = ("agents", "contract", "export", "models", "planners")


class _Positional(nn.Module):
    """The controller with everything, weights too, as positional inputs, so that no weight is folded into the graph."""

    def __init__(self, controller: Controller, weights: list[str]) -> None:
        super().__init__()
        self._controller = [controller]  # in a list: its parameters must not be this module's
        self._weights = weights
        self.outputs: list[str] = []

    def forward(self, observation: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        controller = self._controller[0]
        values = iter(rest)
        images = {name: next(values) for name in controller.images}
        carry = {name: next(values) for name in controller.carry}
        noise = {name: next(values) for name in controller.noise}
        weights = dict(zip(self._weights, values, strict=True))
        given = (observation, carry, noise, images) if images else (observation, carry, noise)
        result = dict(torch.func.functional_call(controller, weights, given))
        following = result.pop("next")
        named = {**result, **{f"next.{name}": following[name] for name in controller.carry}}
        self.outputs = list(named)
        # An output that is an input or another output would lose its name in the graph.
        return tuple(value.clone() for value in named.values())


def tensors(controller: Controller) -> dict[str, Tensor]:
    """Everything of the controller that training can change: parameters and buffers, by name."""
    return {**dict(controller.named_parameters()), **dict(controller.named_buffers())}


def example_inputs(controller: Controller, contract: Contract, seed: int) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """A random observation, an empty carry and random noise."""
    generator = torch.Generator().manual_seed(seed)
    observation = torch.randn(contract.observation_size, generator=generator)
    carry = {name: torch.zeros(shape) for name, shape in controller.carry.items()}
    noise = {
        name: torch.randn(spec.shape, generator=generator) if spec.distribution == "normal" else torch.rand(spec.shape, generator=generator)
        for name, spec in controller.noise.items()
    }
    return observation, carry, noise


def example_images(controller: Controller, seed: int) -> dict[str, Tensor]:
    """Random pictures `[1, H, W, C]` of every camera that it sees."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(0, 256, (1, *size), generator=generator, dtype=torch.uint8) for name, size in controller.images.items()}


def export(controller: Controller, contract: Contract) -> onnx.ModelProto:
    """Traces the controller into a graph whose weights are inputs called `weights.<name>`; takes seconds."""
    weights = tensors(controller)
    observation, carry, noise = example_inputs(controller, contract, seed=0)
    images = example_images(controller, seed=0)
    arguments = (observation, *images.values(), *carry.values(), *noise.values(), *(w.detach() for w in weights.values()))
    names = [
        "observation",
        *images,
        *(f"carry.{n}" for n in carry),
        *(f"noise.{n}" for n in noise),
        *(_PREFIX + n for n in weights),
    ]
    module = _Positional(controller, list(weights)).eval()
    with torch.no_grad():
        module(*arguments)  # fills in module.outputs
        traced = _without_gradients(module, arguments) if controller.differentiates else module
    model = graph_of(traced, arguments, names, module.outputs)
    return with_look_ahead(model, controller, weights, graph_of) if controller.look_ahead else model


def graph_of(module: nn.Module, arguments: tuple[Tensor, ...], inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """The graph of any module, with nothing of the exporting machine in it."""
    with torch.no_grad(), warnings.catch_warnings(), _quiet("torch.onnx"), open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, arguments, dynamo=True, input_names=inputs, output_names=outputs, optimize=True, verbose=False)
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _drop_debug_text(model)
    return model


def template(controller: Controller, contract: Contract) -> onnx.ModelProto:
    """The exported graph, from the user's cache when this configuration was exported before.

    The key holds the agent's configuration, the contract, the versions and the source of every room that shapes the graph.
    """
    path = _cache_directory() / f"{_key(controller, contract)}.onnx"
    if path.is_file():
        try:
            return onnx.load(path)
        except Exception:  # a damaged cache entry is made anew, whatever the damage is
            logging.getLogger(__name__).warning("%s: damaged, exporting again", path)
    model = export(controller, contract)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, model.SerializeToString())
    return model


def filled(model: onnx.ModelProto, controller: Controller) -> onnx.ModelProto:
    """A copy of the graph with the controller's present weights as initializers."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    weights = tensors(controller)
    keep = [i for i in result.graph.input if not i.name.startswith(_PREFIX)]
    wanted = {i.name for i in result.graph.input if i.name.startswith(_PREFIX)}
    del result.graph.input[:]
    result.graph.input.extend(keep)
    for name, value in weights.items():
        if _PREFIX + name in wanted:
            array = np.ascontiguousarray(value.detach().cpu().numpy())
            result.graph.initializer.append(numpy_helper.from_array(array, _PREFIX + name))
    return result


def write_atomically(path: Path, data: bytes) -> None:
    """Writes to a temporary file beside `path`, then renames: a reader sees the old file or the new one, whole."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wm_ros" / "graphs"


def _key(controller: Controller, contract: Contract) -> str:
    digest = hashlib.sha256()
    settings: dict[str, Any] = {
        "agent": controller.agent,
        "config": controller.config,
        "contract": contract.hash,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    root = Path(wm_ros.__file__).parent
    for room in _ROOMS_IN_THE_GRAPH:
        for source in sorted((root / room).glob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()


def _without_gradients(module: nn.Module, arguments: tuple[Tensor, ...]) -> nn.Module:
    """The module as plain operations, those of its backward passes included: `torch.export` cannot see through `torch.func.grad`."""
    traced = make_fx(module)(*arguments)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


def _drop_debug_text(model: onnx.ModelProto) -> None:
    """Removes stack traces and paths of the exporting machine: they are most of the file, and nobody's business."""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    del model.graph.value_info[:]


@contextlib.contextmanager
def _quiet(logger: str):  # type: ignore[no-untyped-def]
    loggers = [logging.getLogger(logger), logging.getLogger("onnxscript"), logging.getLogger("onnx_ir")]
    levels = [item.level for item in loggers]
    for item in loggers:
        item.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for item, level in zip(loggers, levels, strict=True):
            item.setLevel(level)
