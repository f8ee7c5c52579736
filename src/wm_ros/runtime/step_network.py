"""An exported model step as the step function of a tree search."""

from __future__ import annotations

import numpy as np
import onnxruntime

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.runtime.onnx_check import check_self_contained
from wm_ros.runtime.tree_search import Array, Transition

OBSERVATION, ACTION = "observation", "action"
NEXT, REWARD, GOING_ON = "next.observation", "reward", "going_on"


class StepNetwork:
    """States `[B, O]` and actions `[B, A]` in half ranges → `Transition`, by onnxruntime; B is fixed in the file."""

    def __init__(self, data: bytes, contract: Contract, rows: int, where: str = "step network", threads: int = 1) -> None:
        """Loads the network.

        Args:
            data: the ONNX file, as `export.step_network.export` makes it.
            contract: sizes and action limits.
            rows: B, `TreeConfig.width` of the search.
            where: named in errors.
            threads: of one inference.

        Raises:
            UserError: no such network, or one of other sizes.
        """
        check_self_contained(data, where)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        given = {i.name: tuple(i.shape) for i in self._session.get_inputs()}
        expected = {OBSERVATION: (rows, contract.observation_size), ACTION: (rows, contract.action_size)}
        outputs = [o.name for o in self._session.get_outputs()]
        if given != expected or outputs != [NEXT, REWARD, GOING_ON]:
            raise UserError(f"{where}: inputs {given}, outputs {outputs}; {contract.name} and this search need {expected}: export it again")
        low, high = (np.array([getattr(j, end) for j in contract.action.joints], np.float32) for end in ("low", "high"))
        self._middle, self._half_range = (low + high) / 2, (high - low) / 2

    def __call__(self, state: Array, action: Array) -> Transition:
        """See `tree_search.Step`."""
        return Transition(*self._session.run(None, {OBSERVATION: state, ACTION: self._middle + self._half_range * action}))
