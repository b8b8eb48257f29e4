import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from tickdrive.agents.perception.compact_network import CompactConfig, CompactPerception
from tickdrive.planner.augment import AugmentConfig, augment_image, augment_lidar, augment_status
from tickdrive.planner.config import to_yaml
from tickdrive.planner.dataset import NO_TAG, load_training_data
from tickdrive.planner.errors import CheckpointError, ConfigError, DataError
from tickdrive.planner.export import export_checkpoint
from tickdrive.planner.network_config import preset
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.recording import RecordedSample, RecordingMeta, RecordingWriter, find_recordings
from tickdrive.planner.training import Trainer, resolve_device
from tickdrive.planner.training_config import TrainingConfig, load_training_config
from tickdrive.planner.training_state import read_progress, step_seed
from tickdrive.scripts import bench
from tickdrive.scripts.train import compact_config_for, starting_modules, train_command

DECISIONS = ("CRUISE", "FOLLOW", "STOP_LIGHT")
PERCEPTION = CompactConfig(
    width=32,
    image_height=32,
    image_width=64,
    image_channels=(8, 8, 16, 16, 32),
    bev_size=32,
    bev_channels=(8, 8, 16, 16),
    n_decisions=3,
    heads=4,
)
POLICY = preset(
    "compact",
    n_emb=32,
    n_head=4,
    n_layer=2,
    n_encoder_layer=1,
    vl_width=32,
    reasoning_width=32,
    observation_width=32,
    p_drop_attn=0.1,
)
CONFIG = TrainingConfig(
    epochs=4,
    batch_size=8,
    draws=2,
    learning_rate=3e-3,
    warmup_steps=2,
    device="cpu",
    validate_every=2,
    threads=2,
    ema_decay=0.9,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: threads that wait for each other on a busy machine cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def record(folder, split, route, town="Small", count=12, seed=0):
    """Drives in which a red picture means stop, and the plan's length is the speed wanted."""
    rng = np.random.default_rng(seed)
    meta = RecordingMeta(town=town, route_id=route, seed=seed, split=split, decisions=DECISIONS)
    with RecordingWriter(folder, meta) as writer:
        for i in range(count):
            stop = i % 3 == 0
            image = rng.integers(0, 80, (32, 64, 3), dtype=np.uint8)
            image[:, :, 0 if stop else 1] += 150
            speed = 0.0 if stop else 6.0
            waypoints = np.column_stack([speed * 0.5 * np.arange(1, 7), np.full(6, 0.1 * i)])
            writer.append(
                RecordedSample(
                    frame=i,
                    sim_s=i * 0.25,
                    image=image,
                    lidar_bev=rng.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8),
                    ego_status=rng.normal(size=(4, 22)).astype(np.float32) * 0.1,
                    waypoints_in_ego=waypoints,
                    decision="STOP_LIGHT" if stop else "FOLLOW" if i % 3 == 1 else "CRUISE",
                    light_state="red" if stop else "none",
                    lead_distance_m=10.0 if i % 3 == 1 else None,
                    lead_speed_mps=3.0 if i % 3 == 1 else None,
                    target_speed_mps=speed,
                    speed_mps=speed,
                    semantic=rng.integers(0, 29, (32, 64), dtype=np.uint8) if i % 2 else None,
                )
            )


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    root = tmp_path_factory.mktemp("recordings")
    record(root / "a", "train", "1", seed=1)
    record(root / "b", "train", "2", seed=2)
    record(root / "c", "val_route", "3", count=6, seed=3)
    record(root / "d", "val_town", "1", town="Other", count=6, seed=4)
    return root


@pytest.fixture(scope="module")
def data(recordings):
    return load_training_data(find_recordings([recordings]), threads=2)


def trainer(data, folder, resume=False, perception=PERCEPTION, **changes):
    torch.manual_seed(0)
    return Trainer(
        TrainingConfig(**{**vars(CONFIG), **changes}),
        data,
        DiffusionPolicy(POLICY),
        CompactPerception(perception),
        vars(perception),
        folder,
        resume=resume,
    )


def test_data_is_split_as_recorded(data):
    assert {name: len(samples) for name, samples in data.splits.items()} == {
        "train": 24,
        "val_route": 6,
        "val_town": 6,
    }
    train = data.splits["train"]
    assert train.image.dtype == torch.uint8 and train.lidar_bev.shape[1:] == (4, 3, 32, 32)
    assert train.lead[0].tolist() == [1.0, 0.0]
    assert train.lead[1].tolist() == pytest.approx([0.25, 0.3])
    assert (train.semantic[0] == NO_TAG).all() and (train.semantic[1] != NO_TAG).any()


def test_a_route_or_town_in_two_splits_is_refused(tmp_path):
    record(tmp_path / "a", "train", "1")
    record(tmp_path / "b", "val_route", "1")
    with pytest.raises(DataError, match="Route 1 of Small"):
        load_training_data(find_recordings([tmp_path]))
    record(tmp_path / "c", "val_town", "2")
    with pytest.raises(DataError, match="Town Small"):
        load_training_data(find_recordings([tmp_path / "a", tmp_path / "c"]))
    with pytest.raises(DataError, match="split 'train'"):
        load_training_data(find_recordings([tmp_path / "b"]))


def test_training_learns_writes_its_curves_and_exports(data, tmp_path):
    run = trainer(data, tmp_path / "run", epochs=24, validate_every=8)
    report = run.run()
    rows = [json.loads(line) for line in (tmp_path / "run" / "curves.jsonl").read_text().splitlines()]
    assert len(rows) == 24 and run.finished
    assert rows[-1]["train"]["loss"] < 0.6 * rows[0]["train"]["loss"]
    assert rows[-1]["train"]["diffusion"] < rows[0]["train"]["diffusion"]
    town = rows[-1]["val_town"]
    assert town["light"]["accuracy"] > 0.8  # red pictures were recognised in a town not trained on
    assert town["decision"]["by_class"]["STOP_LIGHT"]["n"] == 2
    assert town["decision_majority"]["accuracy"] == pytest.approx(1 / 3, abs=1e-3)
    assert set(town) >= {"ade_m", "fde_m", "ade_zero_tokens_m", "ade_constant_velocity_m", "lead_error_m"}
    assert report["data"]["train"]["samples"] == 24 and report["finished"]

    out = tmp_path / "checkpoint"
    exported = export_checkpoint(tmp_path / "run", out, CompactPerception(PERCEPTION), command="train")
    policy = DiffusionPolicy.from_pretrained(out)
    perception, metadata = CompactPerception.from_pretrained(out / "perception")
    assert metadata["step"] == run.progress.step and exported["bytes"] > 0
    assert json.loads((out / "report.json").read_text())["metrics"]["val_town"] == town
    for loaded, kept in ((policy, run.averaged["policy"]), (perception, run.averaged["perception"])):
        assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
        for (name, got), want in zip(loaded.state_dict().items(), kept.state_dict().values(), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5, msg=name)
    # the bounds of the trajectories are metres: halving them would move every plan
    assert torch.equal(policy.normalizer.high_m, run.averaged["policy"].normalizer.high_m)


def test_the_planner_alone_can_be_trained_on_features_that_stay(data, tmp_path):
    first = trainer(data, tmp_path / "first", epochs=2)
    first.run()
    torch.manual_seed(0)
    policy, perception = DiffusionPolicy(POLICY), CompactPerception(PERCEPTION)
    policy.load_state_dict(first.averaged["policy"].state_dict())
    perception.load_state_dict(first.averaged["perception"].state_dict())
    before = {name: value.clone() for name, value in perception.state_dict().items()}
    bounds = policy.normalizer.high_m.clone()
    settings = TrainingConfig(**{**vars(CONFIG), "init": "first", "freeze_perception": True, "epochs": 16})
    run = Trainer(settings, data, policy, perception, vars(PERCEPTION), tmp_path / "second")
    run.run()
    rows = [json.loads(line) for line in (tmp_path / "second" / "curves.jsonl").read_text().splitlines()]
    assert set(rows[0]["train"]) == {"loss", "diffusion"}
    assert rows[-1]["train"]["diffusion"] < 0.8 * rows[0]["train"]["diffusion"]
    for module in (run.modules["perception"], run.averaged["perception"]):
        for name, value in module.state_dict().items():
            torch.testing.assert_close(value, before[name], rtol=1e-6, atol=1e-6, msg=name)
    assert torch.equal(run.modules["policy"].normalizer.high_m, bounds)
    with pytest.raises(ConfigError, match="init"):
        TrainingConfig(freeze_perception=True)


@pytest.mark.parametrize("change", ["n_layer=2", "n_emb=192+n_head=6", "merged_attention=true"])
def test_a_changed_preset_is_trained_and_judged_by_the_commands(recordings, tmp_path, change):
    settings = [
        f"preset=compact+n_encoder_layer=1+{change}",
        "epochs=1",
        "batch_size=24",
        "draws=1",
        "device=cpu",
        "threads=2",
    ]
    quiet = Console(file=io.StringIO())
    train_command([recordings], tmp_path / "run", overrides=settings, console=quiet)
    checkpoint = tmp_path / "run" / "checkpoint"
    assert DiffusionPolicy.from_pretrained(checkpoint).config == preset(f"compact+n_encoder_layer=1+{change}")
    bench.accuracy([recordings], str(checkpoint), tmp_path / "figures.json")
    rows = {
        row["split"]: row
        for row in json.loads((tmp_path / "figures.json").read_text())["results"]
        if "ade_m" in row
    }
    trained = json.loads((checkpoint / "report.json").read_text())["metrics"]
    for split in ("val_route", "val_town"):
        assert rows[split]["samples"] == 6
        # weights are exported in fp16
        assert rows[split]["ade_m"] == pytest.approx(trained[split]["ade_m"], rel=0.02)
        assert rows[split]["fde_m"] == pytest.approx(trained[split]["fde_m"], rel=0.02)


def test_the_same_seed_starts_from_the_same_perception_whatever_the_planner(data):
    started = []
    for name in ("compact", "compact+n_layer=1"):
        torch.manual_seed(0)
        modules = starting_modules(TrainingConfig(preset=name), preset(name), compact_config_for(data, 256))
        started.append(modules[1].state_dict())
    assert all(torch.equal(started[0][key], started[1][key]) for key in started[1])


def test_a_resumed_run_is_the_uninterrupted_one(data, tmp_path):
    whole = trainer(data, tmp_path / "whole")
    whole.run()
    # stops as soon as a step is over the limit, in the middle of an epoch
    part = trainer(data, tmp_path / "part", max_minutes=1e-9)
    part.run()
    assert part.progress.step == 1 and not part.finished
    for _ in range(3):
        part = trainer(data, tmp_path / "part", resume=True, max_minutes=1e-9)
        part.run()
    assert part.progress.step == 4
    part = trainer(data, tmp_path / "part", resume=True)
    part.run()
    assert part.finished
    for group in ("modules", "averaged"):
        for key in ("policy", "perception"):
            want, got = getattr(whole, group)[key].state_dict(), getattr(part, group)[key].state_dict()
            for name, tensor in want.items():
                assert torch.equal(got[name], tensor), f"{group} {key} {name}"


def test_resuming_something_else_is_refused(data, tmp_path):
    trainer(data, tmp_path / "run", max_minutes=1e-9).run()
    with pytest.raises(DataError, match="holds a training run"):
        trainer(data, tmp_path / "run")
    with pytest.raises(CheckpointError, match="learning_rate"):
        trainer(data, tmp_path / "run", resume=True, learning_rate=1e-3)
    with pytest.raises(CheckpointError, match="does not fit"):
        changed = CompactConfig(**{**vars(PERCEPTION), "n_queries": 5})
        trainer(data, tmp_path / "run", resume=True, perception=changed)
    path = tmp_path / "run" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        trainer(data, tmp_path / "run", resume=True)
    with pytest.raises(CheckpointError, match="no state"):
        read_progress(tmp_path)


def test_a_planner_of_another_status_width_is_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="ego status"):
        Trainer(
            CONFIG,
            data,
            DiffusionPolicy(preset("compact", n_emb=32, n_head=4, status_width=14)),
            CompactPerception(PERCEPTION),
            vars(PERCEPTION),
            tmp_path,
        )
    with pytest.raises(ConfigError):
        resolve_device("gpu")


def test_sampling_favours_rare_decisions(data, tmp_path):
    run = trainer(data, tmp_path, balance_sampling=0.0)
    assert sorted(run._epoch_order(0).tolist()) == list(range(24))  # every sample once
    assert torch.equal(run._epoch_order(1), run._epoch_order(1))
    assert not torch.equal(run._epoch_order(0), run._epoch_order(1))
    assert step_seed(0, 1) != step_seed(1, 1) and step_seed(0, -1) >= 0


def test_augmentation_changes_what_it_should():
    torch.manual_seed(0)
    none = AugmentConfig(**dict.fromkeys(vars(AugmentConfig()), 0))
    image = torch.randint(0, 256, (3, 16, 32, 3), dtype=torch.uint8)
    assert torch.equal(augment_image(image, none), image.float().permute(0, 3, 1, 2))
    bev = torch.randint(0, 256, (3, 4, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(augment_lidar(bev, none), bev.float() / 255.0)
    status = torch.randn(3, 4, 22)
    assert torch.equal(augment_status(status, none), status)

    shifted = augment_image(image, AugmentConfig(**{**vars(none), "shift_x": 3, "shift_y": 2}))
    found = any(
        torch.equal(
            shifted[0, :, 4:12, 4:28],
            image.float().permute(0, 3, 1, 2)[0, :, 4 + dy : 12 + dy, 4 + dx : 28 + dx],
        )
        for dy in range(-2, 3)
        for dx in range(-3, 4)
    )
    assert found
    changed = augment_image(image, AugmentConfig())
    assert changed.shape == (3, 3, 16, 32) and changed.min() >= 0 and changed.max() <= 255
    blind = augment_status(
        status, AugmentConfig(p_drop_history=1.0, p_drop_pedals=1.0, p_drop_speed=0.0, speed_noise=0.0)
    )
    assert not blind[:, :-1, [0, 1, 2, 3, 12, 13]].any() and not blind[:, -1, [2, 3]].any()
    assert torch.equal(blind[:, :, 4:12], status[:, :, 4:12]) and torch.equal(
        blind[:, -1, 0], status[:, -1, 0]
    )


def test_the_shipped_configuration_reads_and_errors_name_the_key(tmp_path):
    assert load_training_config(None, ["epochs=3"]).epochs == 3
    with pytest.raises(ConfigError, match="p_cutout"):
        load_training_config(None, ["augment.p_cutot=0.1"])
    with pytest.raises(ConfigError, match=r"weights\.lead"):
        load_training_config(None, ["weights.lead=-1"])
    assert load_training_config(None, ["preset=compact+n_layer=2"]).preset == "compact+n_layer=2"
    with pytest.raises(ConfigError, match="Did you mean 'compact'"):
        load_training_config(None, ["preset=compct"])
    with pytest.raises(ConfigError, match="Did you mean 'n_layer'"):
        load_training_config(None, ["preset=compact+n_layers=2"])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(CONFIG))
    assert load_training_config(path) == CONFIG
