"""Hostile contracts, controllers, announcements and paths: `make fuzz`, or `python test/fault/fuzz_inputs.py --inputs 100000`.

Whatever comes in, the answer is a valid object or one clear error, soon, and never anything else; a path never leads out of its folder.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import tiny_controller

from wm_ros.contract import announcements, schema
from wm_ros.contract.announcements import Announcement, ControllerNotice, EpisodeState, Progress, Segment
from wm_ros.contract.errors import UserError
from wm_ros.contract.resources import share_directory
from wm_ros.runtime import artifact
from wm_ros.runtime.confinement import inside
from wm_ros.runtime.controller import ControllerSession

MEMORY = 4 << 30
SLOWEST_S = 35.0
"""A first inference may take 30 s before the loading is given up; nothing may take longer than that."""
WEIGHTS = {"announcement": 0.4, "contract": 0.3, "controller": 0.2, "path": 0.1}
"""Share of each kind of input."""
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, -(2**63), 10**30, 1e308, -0.0, float("nan"), float("inf"), "", " ", "\0", "ß" * 300, "x" * 70_000,
    "../" * 9, "/etc/passwd", "~", "2026-02-31", "1e999", [], {}, [[]], {"": None}, [0] * 5000, {"a": {"b": {"c": []}}},
)  # fmt: skip
YAML_ODD = (
    "2026-99-99", "!!python/object/apply:os.system [true]", "&a [*a]", "*missing", "!!binary x", "!!float x", "!!int 1_", "0x", "? [a]: b",
    "<<: 3", "9" * 5000, "[" * 600, "1:99:99", "!!timestamp 1", "\t", "%TAG", "\ud7ff", "!!set {a: 1}", "!!omap [a]", "12e", "@",
)  # fmt: skip

Place = tuple[Any, Any]
"""A container, and the key or index of something in it."""


def places(tree: Any) -> list[Place]:
    """Everything in a tree of plain data that can be replaced."""
    found: list[Place] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            stack.append(node[key])
    return found


def damaged_tree(rng: np.random.Generator, tree: Any) -> Any:
    """Some values replaced, keys renamed or taken away, parts put where others were."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.integers(1, 4)):
        there = places(tree)
        if not there:
            break
        node, key = there[rng.integers(len(there))]
        kind = rng.integers(5)
        if kind == 0 and isinstance(node, dict):
            node[str(ODD[rng.integers(len(ODD))])[:40]] = node.pop(key)
        elif kind == 1:
            del node[key]
        elif kind == 2:
            other, its = there[rng.integers(len(there))]
            node[key] = copy.deepcopy(other[its])
        elif kind == 3 and isinstance(node[key], int | float):
            node[key] = node[key] * float(rng.choice([-1.0, 0.0, 1e-9, 1e9, 1e300]))
        else:
            node[key] = copy.deepcopy(ODD[rng.integers(len(ODD))])
    return tree


def damaged_bytes(rng: np.random.Generator, data: bytes) -> bytes:
    """Bytes changed, cut out, doubled, or the end missing."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        if not out:
            break
        at, length = int(rng.integers(len(out))), int(rng.integers(1, 40))
        kind = rng.integers(4)
        if kind == 0:
            out[at] = int(rng.integers(256))
        elif kind == 1:
            del out[at : at + length]
        elif kind == 2:
            out[at:at] = out[at : at + length]
        else:
            del out[at + length * 20 :]
    return bytes(out)


class Fuzz:
    """Good inputs to damage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contract = tiny_controller.contract()
        shipped = sorted((share_directory() / "config/contracts").glob("*.yaml"))
        self.contracts = [path.read_text(encoding="utf-8") for path in shipped]
        self.contract_trees = [yaml.safe_load(text) for text in self.contracts]
        self.controllers = [
            path.read_bytes()
            for path in (tiny_controller.constant(folder / "constant.onnx"), tiny_controller.feedback(folder / "feedback.onnx"))
        ]
        state = EpisodeState(episode=1, state="ended", purpose="train", seed=3, start_stamp_ns=10**9, end_stamp_ns=2 * 10**9)
        notice = tiny_controller.notice(folder / "constant.onnx")
        segment = Segment(path="/bags/a", episode=state, contract_hash=self.contract.hash, messages=1, bytes=1)
        self.announcements: list[Announcement] = [state, notice, segment, Progress(phase="waiting", version=-1)]
        self.root = folder / "models"
        (self.root / "deep").mkdir(parents=True)
        (self.root / "out").symlink_to("/")
        (self.root / "loop").symlink_to(self.root / "loop")
        self.kinds: dict[str, Callable[[np.random.Generator], None]] = {
            "announcement": self.announcement,
            "contract": self.contract_file,
            "controller": self.controller,
            "path": self.path,
        }

    def one(self, seed: int) -> str:
        """Tries one input; gives its kind and how it ended."""
        rng = np.random.default_rng(seed)
        kind = str(rng.choice(list(WEIGHTS), p=list(WEIGHTS.values())))
        try:
            self.kinds[kind](rng)
        except UserError as error:
            assert str(error), "an error without a word"
            return f"{kind} refused"
        return f"{kind} taken"

    def announcement(self, rng: np.random.Generator) -> None:
        good = self.announcements[rng.integers(len(self.announcements))]
        text = good.to_json()
        if rng.integers(2):
            text = json.dumps(damaged_tree(rng, json.loads(text)))
        else:
            text = damaged_bytes(rng, text.encode()).decode(errors=str(rng.choice(["replace", "surrogateescape"])))
        kinds = (ControllerNotice, EpisodeState, Segment, Progress)
        read = announcements.read(kinds[rng.integers(4)] if rng.random() < 0.1 else type(good), text, "topic")
        assert announcements.read(type(read), read.to_json(), "topic") == read

    def contract_file(self, rng: np.random.Generator) -> None:
        which = rng.integers(len(self.contracts))
        kind = rng.integers(3)
        if kind == 0:
            data = damaged_bytes(rng, self.contracts[which].encode())
        elif kind == 1:
            data = yaml.safe_dump(damaged_tree(rng, self.contract_trees[which])).encode()
        else:
            lines = self.contracts[which].splitlines()
            at = rng.integers(len(lines))
            lines[at] = lines[at].partition(":")[0] + ": " + YAML_ODD[rng.integers(len(YAML_ODD))]
            data = "\n".join(lines).encode(errors="surrogatepass")
        file = self.folder / "contract.yaml"
        file.write_bytes(data)
        made = schema.load(file)
        assert schema.from_json(made.canonical_json(), "again").hash == made.hash

    def controller(self, rng: np.random.Generator) -> None:
        data = self.controllers[rng.integers(len(self.controllers))]
        if rng.integers(2):
            model = onnx.load_model_from_string(data)
            text = next(p.value for p in model.metadata_props if p.key == artifact.METADATA_KEY)
            onnx.helper.set_model_props(model, {artifact.METADATA_KEY: json.dumps(damaged_tree(rng, json.loads(text)))})
            data = model.SerializeToString()
        else:
            data = damaged_bytes(rng, data)
        file = self.folder / "controller.onnx"
        file.write_bytes(data)
        session = ControllerSession.load(file, self.contract)
        output = session.act(np.zeros(self.contract.observation_size, np.float32))
        assert not output.ok or bool(np.isfinite(output.action).all())

    def path(self, rng: np.random.Generator) -> None:
        parts = ("..", ".", "deep", "out", "loop", "etc", "", "~", "\0", "ß" * 300, "a\nb", "controller.onnx", str(self.root))
        words = [parts[rng.integers(len(parts))] for _ in range(rng.integers(1, 7))]
        start = str(self.root) + "/" if rng.random() < 0.7 else ""
        real = inside(self.root, start + "/".join(words), "topic", "no")
        assert os.path.realpath(real).startswith(f"{os.path.realpath(self.root)}{os.sep}"), f"{real} is outside"


def work(begin: int, count: int, folder: str, told: Any) -> None:
    """Child process: a crash of a library below ends only it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    fuzz, outcomes, slowest = Fuzz(Path(folder)), Counter[str](), (0.0, -1)
    for seed in range(begin, begin + count):
        told.send(("at", seed))
        start = time.monotonic()
        try:
            outcomes[fuzz.one(seed)] += 1
        except Exception as error:
            told.send(("failed", f"--seed {seed} --inputs 1 shows it: {error!r:.500}"))
            return
        slowest = max(slowest, (time.monotonic() - start, seed))
    told.send(("done", (outcomes, slowest)))


def run(inputs: int, seed: int, folder: Path) -> tuple[Counter[str], tuple[float, int]]:
    """Tries so many inputs; gives how they ended, and (seconds, seed) of the slowest.

    Raises:
        AssertionError: one ended in another way than as an object or a clear error; says which.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=work, args=(seed, inputs, str(folder), theirs))
    child.start()
    theirs.close()
    at = seed
    try:
        while True:
            assert ours.poll(SLOWEST_S + 60.0 * (at == seed)), f"--seed {at} --inputs 1 shows it: it takes longer than {SLOWEST_S:g} s"
            what, value = ours.recv()
            if what == "done":
                return value
            assert what == "at", value
            at = value
    except EOFError:
        child.join()
        raise AssertionError(f"--seed {at} --inputs 1 shows it: the process ended with status {child.exitcode}") from None
    finally:
        child.kill()
        child.join()


def main() -> None:
    """Runs as many inputs as asked for and prints how they ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcomes, (slowest, which) = run(arguments.inputs, arguments.seed, Path(folder))
    ended = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    print(f"{arguments.inputs} inputs in {time.monotonic() - began:.0f} s, slowest {slowest:.2f} s (seed {which}): {ended}")


if __name__ == "__main__":
    main()
