"""planning: what `convmesh plan` prints, and its exit status."""

import dataclasses
import json
import types

import cv2
import pytest
from test_step_plan import config

from convmesh.cli.command_line import main
from convmesh.config import load_config
from convmesh.errors import ConfigError, RunError
from convmesh.plan import planning
from convmesh.plan.picture import draw_plan
from convmesh.plan.planning import (
    PlanOptions,
    as_json,
    candidate_meshes,
    check_picture,
    plan,
    plan_table,
)
from convmesh.plan.roofline import StepSeconds
from convmesh.plan.step_plan import Memory, Plan
from convmesh.plan.topology import Topology, open_topology
from convmesh.programs.collectives import CollectiveTotal

GIB = 2**30
PLAN = Plan(
    topology="some:8",
    device="some",
    devices=8,
    mesh="data 8, spatial 1, model 1",
    model="resnet50",
    precision="bfloat16",
    batch=800,
    steps=1000,
    memory=Memory(1 * GIB, 2 * GIB, GIB, GIB // 2, 4 * GIB, GIB // 4, 9 * GIB, 16 * GIB),
    flops=1e12,
    traffic=10**10,
    collectives=[CollectiveTotal("all-reduce", ("data",), 3, 10**8, 5 * 10**7)],
    seconds=StepSeconds(0.5, 0.25, 0.3, 0.1, 0.8),
    compile_seconds=12.0,
)
TOO_LARGE = dataclasses.replace(PLAN, memory=dataclasses.replace(PLAN.memory, available=8 * GIB))


def test_the_table():
    text = plan_table(PLAN, price=2.0)
    assert "resnet50, bfloat16, batch 800 on 8 x some (some:8; mesh: data 8" in text
    assert "fits, with room for 7,516.2 MB" in text
    assert "all-reduce            data                        3        100.00         50%" in text
    assert "1,000    (62% of 8 devices)" in text  # 800 images in 0.8 s, 0.5 of it work
    assert "0.22 hours (0.01 days) of 1,000 steps, 4 at 2 a device-hour" in text  # 0.222 h x 8 x 2
    assert "DOES NOT FIT, by 1,073.7 MB" in plan_table(TOO_LARGE)


def test_json_has_the_names_that_are_promised():
    found = json.loads(json.dumps(as_json(PLAN, price=2.0)))
    assert found["devices"] == 8 and found["fits"] is True
    sizes = found["bytes_per_device"]
    assert sizes["parameters"] == GIB and sizes["optimizer"] == 2 * GIB
    assert sizes["temporaries"] == 4 * GIB and sizes["total"] == 9 * GIB
    assert sizes["available"] == 16 * GIB and "measured" not in sizes
    assert found["flops_per_device"] == 1e12 and found["compile_seconds"] == 12
    (each,) = found["collectives"]
    assert (each["kind"], each["axis"], each["count"]) == ("all-reduce", "data", 3)
    assert each["bytes"] == 10**8 and each["overlapped_bytes"] == 5 * 10**7
    assert found["step_seconds"]["total"] == 0.8 and found["images_per_second"] == 1000
    assert found["cost"] == pytest.approx(1000 * 0.8 / 3600 * 8 * 2)


def test_the_picture(tmp_path):
    for name, each in (("fits", PLAN), ("not", TOO_LARGE)):
        draw_plan(each, tmp_path / f"{name}.png")
        assert cv2.imread(str(tmp_path / f"{name}.png")).std() > 10
    draw_plan(dataclasses.replace(PLAN, seconds=None), tmp_path / "cpu.png")
    assert (tmp_path / "cpu.png").stat().st_size > 1000


def test_a_picture_that_cannot_be_written_is_refused_first(tmp_path):
    check_picture(str(tmp_path / "plan.png"))
    for path in (tmp_path, tmp_path / "no" / "plan.png"):
        with pytest.raises(ConfigError, match="--picture"):
            check_picture(str(path))


def test_a_step_that_does_not_fit_ends_with_status_1(monkeypatch, capsys):
    monkeypatch.setattr(planning, "plan_step", lambda config, topology: TOO_LARGE)
    with pytest.raises(RunError, match="9.00 GiB on each some, 8.00 available, 1.00 too many"):
        plan(config(), open_topology("cpu:8"), PlanOptions())
    out = capsys.readouterr().out
    assert "it would fit with one of (estimated):" in out and "train.batch_size=" in out


def test_the_number_of_images_gives_the_length(monkeypatch):
    asked = []
    monkeypatch.setattr(
        planning, "plan_step", lambda config, topology: asked.append(config.train.steps) or PLAN
    )
    given = config(**{"train.steps": 0, "train.epochs": 3.0})
    plan(given, open_topology("cpu:8"), PlanOptions(images=160, as_json=True))
    assert asked == [30]  # of 16 images


def test_sizes_that_a_recipe_leaves_open_are_those_of_the_devices_and_images(monkeypatch):
    asked = []
    monkeypatch.setattr(planning, "plan_step", lambda config, _: asked.append(config) or PLAN)
    mesh = types.SimpleNamespace(shape={"data": 4})
    monkeypatch.setattr(planning, "make_run_mesh", lambda *_: mesh)
    gpus = [types.SimpleNamespace(platform="gpu")] * 4
    plan(load_config("classify"), Topology("h100:4", gpus, None), PlanOptions(images=1800))
    [found] = asked
    assert (found.model.name, found.data.image_size) == ("resnet50", (224, 224))
    assert found.train.batch_size == 60  # a thirtieth of the images


def test_a_search_ranks_meshes_and_leaves_out_what_cannot_be(monkeypatch, capsys):
    def one(config, topology):
        sizes = config.mesh
        if sizes.spatial == 2:
            raise ConfigError("rows")
        if sizes.fsdp:
            return TOO_LARGE
        seconds = dataclasses.replace(PLAN.seconds, total=1.0 / sizes.model)
        mesh = f"model {sizes.model}"
        return dataclasses.replace(PLAN, seconds=seconds, mesh=mesh)

    monkeypatch.setattr(planning, "plan_step", one)
    plan(config(), open_topology("cpu:8"), PlanOptions(search=True, as_json=True))
    found = json.loads(capsys.readouterr().out)
    assert [each["fits"] for each in found] == sorted(
        (each["fits"] for each in found), reverse=True
    )
    fitting = [each["step_seconds"]["total"] for each in found if each["fits"]]
    assert fitting == sorted(fitting) and found[0]["mesh"] == "model 2"


def test_candidates_use_all_devices_and_begin_with_the_least_communication():
    found = candidate_meshes(8)
    assert found[0] == {"data": 8, "spatial": 1, "model": 1, "fsdp": False}
    assert all(each["data"] * each["spatial"] * each["model"] == 8 for each in found)
    assert len(found) == planning.MOST_MESHES
    assert candidate_meshes(1) == [{"data": 1, "spatial": 1, "model": 1, "fsdp": False}]


def test_from_the_command_line(capsys, tmp_path):
    words = ["plan", "--config", "small_cnn", "--topology", "cpu:8", "--json"]
    assert main([*words, "--picture", str(tmp_path / "plan.png")]) == 0
    assert json.loads(capsys.readouterr().out)["devices"] == 8
    assert (tmp_path / "plan.png").exists()
    assert main(["plan", "--config", "small_cnn", "--topology", "cpu:many"]) == 2


def test_devices_are_those_of_the_topology_alone(capsys, monkeypatch):
    words = ["plan", "--config", "small_cnn", "--topology", "cpu:8"]
    assert main([*words, "--cpu-devices", "8"]) == 2
    assert "leave out --cpu-devices" in capsys.readouterr().err
    monkeypatch.setattr(planning.processes, "count", lambda: 2)
    with pytest.raises(ConfigError, match="plan: runs in one process only"):
        plan(config(), open_topology("cpu:8"), PlanOptions())


def test_search_or_largest():
    with pytest.raises(ConfigError, match="--search and --largest"):
        plan(config(), open_topology("cpu:8"), PlanOptions(search=True, largest=True))


def test_the_bounds_of_the_batch_are_printed(monkeypatch, capsys):
    larger = dataclasses.replace(TOO_LARGE, batch=840)
    monkeypatch.setattr(planning, "find_largest_batch", lambda *_: (PLAN, larger))
    plan(config(), open_topology("cpu:8"), PlanOptions(largest=True))
    assert "compiled: batch 800 fits; 840 does not\n" in capsys.readouterr().out
    plan(config(), open_topology("cpu:8"), PlanOptions(largest=True, as_json=True))
    found = json.loads(capsys.readouterr().out)
    assert (found["largest_batch_size"], found["too_large_batch_size"]) == (800, 840)


def test_every_mesh_of_an_odd_number_of_devices_is_a_candidate():
    found = [(each["data"], each["spatial"], each["model"]) for each in candidate_meshes(3)]
    assert {(3, 1, 1), (1, 3, 1), (1, 1, 3)} == set(found)


def test_a_price_without_a_length_is_refused():
    unknown = config(**{"train.steps": 0, "train.epochs": 3.0})
    with pytest.raises(ConfigError, match="--price: the length is not known; give --images"):
        plan(unknown, open_topology("cpu:8"), PlanOptions(price=2.0))


def test_json_has_the_changes_with_which_it_would_fit(monkeypatch, capsys):
    monkeypatch.setattr(planning, "plan_step", lambda config, topology: TOO_LARGE)
    with pytest.raises(RunError):
        plan(config(), open_topology("cpu:8"), PlanOptions(as_json=True))
    changes = json.loads(capsys.readouterr().out)["changes_that_fit"]
    assert changes and all(isinstance(change, str) for change in changes)
