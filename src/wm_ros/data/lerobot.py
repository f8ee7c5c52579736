"""Episodes as a LeRobotDataset, version 3.0: a folder that LeRobot's own reader opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data.episode import FRAMES_AT_ONCE, Episode
from wm_ros.data.images import as_png

_CHUNK_FILES = 1000
_FILE_BYTES = 100 << 20
"""LeRobot's own sizes of a folder and a file."""
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_EPISODES = "meta/episodes/chunk-000/file-000.parquet"


class LeRobotWriter:
    """Writes the folder, an episode at a time. An episode of T steps has T frames: the observation before each action.

    LeRobot has no place for the observation after the last action, so that one is left out. Cameras are `observation.images.NAME`, a PNG
    per frame, which needs no video decoder; grey ones get three equal colours, as LeRobot's statistics want three.
    """

    def __init__(self, root: Path, contract: Contract) -> None:
        """
        Args:
            root: the folder; must be empty or not there.
            contract: names the columns; its rate is the dataset's fps and its name the task.

        Raises:
            UserError: pyarrow is not installed, or the folder is not empty.
        """
        try:
            import pyarrow  # type: ignore[import-not-found,unused-ignore]
            import pyarrow.parquet  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            raise UserError("format lerobot: pyarrow is not installed: pip install pyarrow, or take npz") from None
        if root.exists() and any(root.iterdir()):
            raise UserError(f"{root}: not empty, and nothing is overwritten: give another folder")
        self.root = root
        self.contract = contract
        self._arrow = pyarrow
        self._writer: Any = None
        self._file = -1
        self._file_bytes = 0
        self._episodes: list[dict[str, Any]] = []
        self._frames = 0

    def add(self, episode: Episode) -> None:
        """Appends one episode.

        Raises:
            OSError: the disk is full or gone.
        """
        steps, arrow = len(episode), self._arrow
        number = np.arange(steps, dtype=np.int64)
        columns: dict[str, NDArray[Any]] = {
            "observation.state": episode.observation[:-1],
            "action": episode.action,
            "next.reward": episode.reward,
            "next.done": episode.terminated,
            "timestamp": (number / self.contract.control.rate_hz).astype(np.float32),
            "frame_index": number,
            "episode_index": np.full(steps, len(self._episodes), np.int64),
            "index": number + self._frames,
            "task_index": np.zeros(steps, np.int64),
        }
        size = sum(values.nbytes for values in columns.values())
        size += sum(int(np.prod(frames.shape[:3])) * 3 for frames in episode.images.values())
        if self._writer is None or self._file_bytes + size > _FILE_BYTES:
            self._next_file()
        self._file_bytes += size
        seen = {name: _Pixels() for name in episode.images}
        at_once = FRAMES_AT_ONCE if episode.images else steps
        for begin in range(0, steps, at_once):
            part = slice(begin, min(begin + at_once, steps))
            table = {name: self._column(values[part]) for name, values in columns.items()}
            for name, frames in episode.images.items():
                shown = frames[part]
                coloured = np.broadcast_to(shown, (*shown.shape[:3], 3))
                seen[name].add(coloured)
                table[_image_key(name)] = arrow.array([{"bytes": png, "path": None} for png in as_png(coloured)], self._picture())
            self._writer.write_table(arrow.table(table, schema=self._schema()))
        record: dict[str, Any] = {
            "episode_index": len(self._episodes),
            "tasks": [self.contract.name],
            "length": steps,
            "data/chunk_index": self._file // _CHUNK_FILES,
            "data/file_index": self._file % _CHUNK_FILES,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + steps,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        for name, values in columns.items():
            record |= {f"stats/{name}/{what}": value for what, value in _statistics(values).items()}
        for name, pixels in seen.items():
            record |= {f"stats/{_image_key(name)}/{what}": value for what, value in pixels.statistics().items()}
        self._episodes.append(record)
        self._frames += steps

    def close(self) -> None:
        """Writes the metadata; without any episode, nothing."""
        if self._writer is None:
            return
        self._writer.close()
        arrow = self._arrow
        (self.root / _EPISODES).parent.mkdir(parents=True)
        arrow.parquet.write_table(arrow.Table.from_pylist(self._episodes), self.root / _EPISODES)
        # The task's text is the index of a pandas table, which parquet keeps as a note in the schema.
        tasks = arrow.table({"task_index": [0], "__index_level_0__": [self.contract.name]})
        number = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None}
        text = {"name": None, "field_name": "__index_level_0__", "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
        note = {"index_columns": ["__index_level_0__"], "column_indexes": [], "columns": [number, text], "pandas_version": "2.0.0"}
        arrow.parquet.write_table(tasks.replace_schema_metadata({"pandas": json.dumps(note)}), self.root / "meta/tasks.parquet")
        self._write_json("meta/info.json", self._info())
        self._write_json("meta/stats.json", {name: self._overall(name) for name in self._features()})

    def _next_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._file += 1
        self._file_bytes = 0
        path = self.root / _DATA.format(chunk_index=self._file // _CHUNK_FILES, file_index=self._file % _CHUNK_FILES)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = self._arrow.parquet.ParquetWriter(path, self._schema())

    def _features(self) -> dict[str, dict[str, Any]]:
        def scalar(dtype: str) -> dict[str, Any]:
            return {"dtype": dtype, "shape": [1], "names": None}

        observation, action = list(self.contract.observation_names), list(self.contract.action.names)
        return {
            "observation.state": {"dtype": "float32", "shape": [len(observation)], "names": observation},
            "action": {"dtype": "float32", "shape": [len(action)], "names": action},
            **{
                _image_key(name): {"dtype": "image", "shape": [image.height, image.width, 3], "names": ["height", "width", "channels"]}
                for name, image in self.contract.images.items()
            },
            "next.reward": scalar("float32"),
            "next.done": scalar("bool"),
            "timestamp": scalar("float32"),
            **{name: scalar("int64") for name in ("frame_index", "episode_index", "index", "task_index")},
        }

    def _schema(self) -> Any:
        arrow = self._arrow
        kinds = {"float32": arrow.float32(), "int64": arrow.int64(), "bool": arrow.bool_(), "image": self._picture()}
        # LeRobot keeps vectors of one as plain values.
        return arrow.schema(
            [
                (name, kinds[f["dtype"]] if f["shape"] == [1] or f["dtype"] == "image" else arrow.list_(kinds[f["dtype"]], f["shape"][0]))
                for name, f in self._features().items()
            ]
        )

    def _picture(self) -> Any:
        """The type of a picture, as the package `datasets` has it."""
        return self._arrow.struct([("bytes", self._arrow.binary()), ("path", self._arrow.string())])

    def _column(self, values: NDArray[Any]) -> Any:
        flat = self._arrow.array(values.ravel())
        if values.ndim == 1 or values.shape[1] == 1:
            return flat
        return self._arrow.FixedSizeListArray.from_arrays(flat, values.shape[1])

    def _info(self) -> dict[str, Any]:
        rate = self.contract.control.rate_hz
        return {
            "codebase_version": "v3.0",
            "robot_type": self.contract.robot,
            "total_episodes": len(self._episodes),
            "total_frames": self._frames,
            "total_tasks": 1,
            "chunks_size": _CHUNK_FILES,
            "data_files_size_in_mb": _FILE_BYTES >> 20,
            "video_files_size_in_mb": 200,
            "fps": int(rate) if rate == int(rate) else rate,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": _DATA,
            "video_path": _VIDEO,
            "features": self._features(),
        }

    def _overall(self, name: str) -> dict[str, list[float]]:
        """Statistics of all frames, from those of the episodes."""
        parts = {what: np.array([e[f"stats/{name}/{what}"] for e in self._episodes]) for what in ("min", "max", "mean", "std", "count")}
        share = (parts["count"] / parts["count"].sum()).reshape(-1, *[1] * (parts["mean"].ndim - 1))
        mean = (share * parts["mean"]).sum(axis=0)
        variance = (share * (parts["std"] ** 2 + (parts["mean"] - mean) ** 2)).sum(axis=0)
        return {
            "min": parts["min"].min(axis=0).tolist(),
            "max": parts["max"].max(axis=0).tolist(),
            "mean": mean.tolist(),
            "std": np.sqrt(variance).tolist(),
            "count": [int(parts["count"].sum())],
        }

    def _write_json(self, name: str, value: Any) -> None:
        (self.root / name).write_text(json.dumps(value, indent=4), encoding="utf-8")


def _image_key(channel: str) -> str:
    return f"observation.images.{channel}"


class _Pixels:
    """Statistics of each colour over all pixels, on LeRobot's scale of 0 to 1."""

    def __init__(self) -> None:
        self._frames = 0
        self._counts = np.zeros((3, 256), np.int64)

    def add(self, frames: NDArray[np.uint8]) -> None:
        """Takes frames [n, H, W, 3] in."""
        self._frames += len(frames)
        self._counts += np.stack([np.bincount(frames[..., c].ravel(), minlength=256) for c in range(3)])

    def statistics(self) -> dict[str, Any]:
        """Least, largest, mean and standard deviation [3, 1, 1], and the number of frames."""
        value = np.arange(256) / 255.0
        share = self._counts / self._counts.sum(axis=1, keepdims=True)
        mean = share @ value
        found = {
            "min": np.array([value[np.flatnonzero(c)[0]] for c in self._counts]),
            "max": np.array([value[np.flatnonzero(c)[-1]] for c in self._counts]),
            "mean": mean,
            "std": np.sqrt((share * (value - mean[:, None]) ** 2).sum(axis=1)),
        }
        return {**{what: v.reshape(3, 1, 1).tolist() for what, v in found.items()}, "count": [self._frames]}


def _statistics(values: NDArray[Any]) -> dict[str, list[float]]:
    """Least, largest, mean and standard deviation [C] of values [T, C] or [T], and their number."""
    columns = values.reshape(len(values), -1).astype(np.float64)
    found = {"min": columns.min(axis=0), "max": columns.max(axis=0), "mean": columns.mean(axis=0), "std": columns.std(axis=0)}
    return {**{what: value.tolist() for what, value in found.items()}, "count": [len(values)]}
