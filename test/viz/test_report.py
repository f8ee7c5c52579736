"""The report of a run, from directories as the demo leaves them and from damaged ones."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image, ImageSequence
from viz import synthetic_run

from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.data.align import read_episodes
from wm_ros.runtime import artifact
from wm_ros.viz import charts, video
from wm_ros.viz.drawing import drawing
from wm_ros.viz.report import write_picture, write_report
from wm_ros.viz.run_record import RunRecord, read_run

TICKS = 60


@pytest.fixture(scope="module")
def contract() -> schema.Contract:
    return schema.load("cartpole_swingup")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, contract: schema.Contract) -> Path:
    return synthetic_run.write_run(tmp_path_factory.mktemp("run"), contract, training=2, evaluations=2, ticks=TICKS)


@pytest.fixture(scope="module")
def record(run: Path) -> RunRecord:
    return read_run(run)


@pytest.fixture
def damaged(run: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def no_gl(*_: Any, **__: Any) -> np.ndarray:
    raise UserError("no pictures of cartpole.xml: egl: no driver: install libegl1")


def pictures(_: Any, positions: dict[str, np.ndarray], *, width: int, height: int, **__: Any) -> np.ndarray:
    """Frames whose brightness follows the cart."""
    level = np.interp(positions["slider"], (-2, 2), (0, 255)).astype(np.uint8)
    return np.broadcast_to(level[:, None, None, None], (len(level), height, width, 3)).copy()


class References(HTMLParser):
    """Collects what a page would fetch, and checks that its elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data") and value and not value.startswith(("#", "data:")):
                self.fetched.append(value)
        if tag in ("section", "svg", "table", "div", "script", "main"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("section", "svg", "table", "div", "script", "main"):
            assert self.open.pop() == tag


def read_page(path: Path) -> str:
    """The page, found to be well-formed and self-contained."""
    text = path.read_text(encoding="utf-8")
    parser = References()
    parser.feed(text)
    assert parser.open == [] and parser.fetched == []
    assert "@import" not in text and not re.search(r"url\((?!#|[\"']?data:)", text)
    return text


# ---- what a run says --------------------------------------------------------------------------------------------------


def test_returns_are_those_of_the_recorded_episodes(record: RunRecord, run: Path, contract: schema.Contract) -> None:
    expected = [read_episodes(run / "bags" / f"episode_{i:04d}", contract)[0].total_reward for i in range(4)]
    assert record.returns("train") == pytest.approx(expected[:2])
    assert record.returns("evaluate") == pytest.approx(expected[2:])


def test_latency_is_from_reception_of_the_observation_to_reception_of_its_command(record: RunRecord) -> None:
    """The synthetic controller answers 8 ms plus a gamma-distributed time of mean 1.5 ms after each observation."""
    latency = np.concatenate([e.latency_ms for e in record.episodes])
    assert latency.shape == (4 * TICKS,)
    assert latency.min() > 8.0 and latency.mean() == pytest.approx(9.5, abs=0.3)
    period = np.concatenate([e.period_ms for e in record.episodes])
    assert period.shape == (4 * (TICKS - 1),) and period.mean() == pytest.approx(20.0, abs=0.1)


def test_each_plan_belongs_to_the_tick_that_it_was_made_at(record: RunRecord) -> None:
    for episode in record.of("evaluate"):
        assert [p.tick for p in episode.plans] == list(range(TICKS))
        for plan in episode.plans[:-1:7]:
            # The first imagined row has no error in the synthetic plans: it is the truth of the tick it is about.
            truth = episode.observation[min(plan.tick + synthetic_run.PLAN_STRIDE, TICKS)]
            np.testing.assert_allclose(plan.rows[0, :5], truth, atol=1e-6)
    assert record.plan_period_s == pytest.approx(0.04)
    assert all(not e.plans for e in record.of("train"))


def test_best_evaluation_episode_is_the_one_shown(record: RunRecord) -> None:
    assert record.shown is not None and record.shown.total == max(e.total for e in record.of("evaluate"))


def test_time_between_plan_rows_is_the_controllers(damaged: Path, contract: schema.Contract) -> None:
    metadata = artifact.Metadata(
        agent="pets", contract=contract.canonical_json(), contract_hash=contract.hash, version=1, plan_period_s=0.1
    )
    graph = helper.make_graph([], "empty", [], [])
    model = helper.make_model(graph)
    helper.set_model_props(model, {artifact.METADATA_KEY: metadata.to_json()})
    onnx.save(model, str(damaged / "models" / "0001" / "controller.onnx"))
    assert read_run(damaged).plan_period_s == 0.1


# ---- the page ---------------------------------------------------------------------------------------------------------


def test_report_holds_every_part_and_nothing_outside_of_itself(run: Path) -> None:
    text = read_page(write_report(run, pictures))
    for title in ("Return per episode", "What happened, and what was imagined", "Open-loop prediction error", "Timing", "Models", "Run"):
        assert f"<h2>{title}</h2>" in text
    assert text.count("<svg ") == 4
    assert "Rendered by MuJoCo" in text and 'src="data:image/webp;base64,' in text
    assert 'class="missing"' not in text
    summary = json.loads((run / "summary.json").read_text())
    assert summary["contract_hash"] in text and "2.13.0" in text and "wall_s.learning" in text
    assert not list(run.glob("*.part"))


def test_charts_take_their_colors_from_the_page_for_light_and_dark(run: Path) -> None:
    text = write_report(run, no_gl).read_text()
    assert "prefers-color-scheme: dark" in text and "var(--plan)" in text and "var(--ink)" in text
    assert "#0a0b0" not in text, "no stand-in color is left"


def test_without_gl_the_report_draws_the_robot_and_says_why(run: Path) -> None:
    text = read_page(write_report(run, no_gl))
    assert "no driver: install libegl1" in text and "<canvas>" in text and "<img" not in text


def test_drawing_has_a_frame_for_each_tick_with_the_pole_where_it_was(record: RunRecord, contract: schema.Contract) -> None:
    episode = record.shown
    assert episode is not None
    html = drawing(contract, episode)
    scene = json.loads(html.partition('<script type="application/json">')[2].partition("</script>")[0])
    assert len(scene["frames"]) == len(scene["plans"]) == TICKS + 1
    tips = np.array(scene["tips"]).reshape(-1, 2)
    angle = np.arctan2(episode.observation[:, 1], episode.observation[:, 2])
    np.testing.assert_allclose(tips, np.stack([episode.observation[:, 0] + np.sin(angle), 1 + np.cos(angle)], axis=-1), atol=1e-3)
    left, bottom, right, top = scene["view"]
    assert (tips >= [left, bottom]).all() and (tips <= [right, top]).all()
    rods = [next(s for s in frame if s["k"] == "rod") for frame in scene["frames"]]
    lengths = [math.dist(r["p"][:2], r["p"][2:]) for r in rods]
    np.testing.assert_allclose(lengths, 1.0, atol=2e-3)


def test_film_plays_as_long_as_the_episode_and_stays_small(record: RunRecord, contract: schema.Contract) -> None:
    assert record.shown is not None
    data, mime, speed = video.film(contract, record.shown, pictures)
    film = Image.open(io.BytesIO(data))
    assert mime == f"image/{film.format.lower()}" and len(data) < video.MAX_BYTES and speed == pytest.approx(1.0)
    # Not the number of frames: equal ones are merged.
    durations = []
    for frame in ImageSequence.Iterator(film):
        frame.load()
        durations.append(frame.info["duration"])
    assert sum(durations) == pytest.approx(TICKS * 20, abs=80)


def test_film_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_BYTES", 2000)
    noise = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)
    with pytest.raises(UserError, match="shorter episode"):
        video.pack(noise, 40)


def test_main_picture_is_a_png_of_the_run(run: Path, tmp_path: Path) -> None:
    path = write_picture(run, tmp_path / "new" / "picture.png")
    image = Image.open(path)
    assert image.format == "PNG" and image.width >= 1000
    assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50


# ---- what is missing --------------------------------------------------------------------------------------------------


def test_missing_pieces_are_said(damaged: Path) -> None:
    for folder in (damaged / "models").iterdir():
        (folder / "metrics.json").unlink()
    for bag in sorted((damaged / "bags").iterdir())[2:]:
        shutil.rmtree(bag)
    text = read_page(write_report(damaged, no_gl))
    assert "No plan was recorded in episode_000" in text
    assert "No model left an open-loop measurement" in text
    assert "controller.onnx: not there" in text


def test_run_without_bags_tells_the_returns_of_its_summary(damaged: Path) -> None:
    shutil.rmtree(damaged / "bags")
    assert read_run(damaged).returns("evaluate") == [2.0, 2.0]
    text = read_page(write_report(damaged, no_gl))
    assert "no bags" in text and "No episode was recorded" in text and "<h2>Return per episode</h2>" in text
    with pytest.raises(UserError, match="no recorded episode"):
        write_picture(damaged, damaged / "picture.png")


@pytest.mark.parametrize("text", ["", "[]", '{"evaluation_returns": 3, "wall_s": [], "latency_ms": null}', "\xff"])
def test_broken_summary_and_metrics_do_not_stop_the_report(damaged: Path, text: str) -> None:
    (damaged / "summary.json").write_text(text, encoding="latin-1")
    (damaged / "models" / "0001" / "metrics.json").write_text(text, encoding="latin-1")
    (damaged / "controller.onnx").write_bytes(b"no model")
    read_page(write_report(damaged, no_gl))


@pytest.mark.parametrize(
    "part",
    [{}, {"horizon_s": [0.1], "columns": ["a"], "rmse": [[1.0], [2.0]]}, {"horizon_s": "x", "columns": 3}, {"horizon_s": [[1], []]}, []],
)
def test_open_loop_figures_that_do_not_fit_are_left_out(part: Any) -> None:
    assert charts.open_loop({"version": 1, "open_loop": part}) is None


def test_robot_without_an_mjcf_gets_every_chart_and_no_film(tmp_path: Path, contract: schema.Contract) -> None:
    bare = contract.model_copy(update={"simulator": None})
    synthetic_run.write_episode(tmp_path / "bags", contract, 0, "evaluate", 1.0, TICKS, noted=bare)
    text = read_page(write_report(tmp_path))
    assert "Neither film nor drawing" in text and "imagined</h2>" in text and text.count("<svg ") == 3
    assert write_picture(tmp_path, tmp_path / "picture.png").stat().st_size > 10_000


def test_unreadable_bag_is_named_and_the_others_are_told(damaged: Path) -> None:
    for path in (damaged / "bags" / "episode_0003").iterdir():
        path.write_bytes(b"garbage")
    record = read_run(damaged)
    assert len(record.episodes) == 3
    assert any("episode_0003" in remark for remark in record.remarks)
    assert "episode_0003" in read_page(write_report(damaged, no_gl))


def test_text_of_a_run_cannot_become_markup(damaged: Path) -> None:
    (damaged / "summary.json").write_text(json.dumps({"seed": "<script>alert(1)</script>"}))
    assert "<script>alert" not in read_page(write_report(damaged, no_gl))


def test_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run directory"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a run directory"):
        write_report(tmp_path)
