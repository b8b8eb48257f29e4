import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tickdrive.planner import files
from tickdrive.planner.engine import example_inputs
from tickdrive.planner.errors import CheckpointError
from tickdrive.planner.network_config import PolicyConfig
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.random_weights import randomize

TINY = PolicyConfig(
    n_emb=16, n_head=2, n_layer=2, n_encoder_layer=1, vl_width=8, reasoning_width=8, observation_width=8
)


@pytest.fixture
def saved(tmp_path):
    policy = randomize(DiffusionPolicy(TINY)).eval()
    policy.normalizer.fit(torch.randn(20, 6, 2) * 9)
    policy.save_pretrained(tmp_path / "ck", {"steps": 7})
    return tmp_path / "ck", policy


def edit_config(folder, change):
    path = folder / "config.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_round_trip_is_bitwise(saved):
    folder, policy = saved
    loaded = DiffusionPolicy.from_pretrained(folder)
    assert loaded.config == policy.config and loaded.metadata == {"steps": 7} and not loaded.training
    assert loaded.state_dict().keys() == policy.state_dict().keys()
    for name, tensor in policy.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    inputs = example_inputs(TINY, 2, 5, 3, torch.device("cpu"), 0)
    assert torch.equal(loaded.conditional_sample(*inputs), policy.conditional_sample(*inputs))


def test_saving_again_keeps_the_metadata_and_leaves_no_litter(saved, tmp_path):
    folder, _ = saved
    DiffusionPolicy.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert DiffusionPolicy.from_pretrained(tmp_path / "again").metadata == {"steps": 7}
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == ["config.json", "model.safetensors"]


def test_missing_folder_and_files(saved, tmp_path):
    folder, _ = saved
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        DiffusionPolicy.from_pretrained(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        DiffusionPolicy.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        DiffusionPolicy.from_pretrained(folder)


@pytest.mark.parametrize("keep", [0, 5, 200, -8])
def test_truncated_weights(saved, keep):
    folder, _ = saved
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        DiffusionPolicy.from_pretrained(folder)


def test_a_flipped_bit_in_the_weights(saved):
    folder, _ = saved
    path = folder / "model.safetensors"
    payload = bytearray(path.read_bytes())
    payload[-3] ^= 1
    path.write_bytes(payload)
    with pytest.raises(CheckpointError, match="SHA-256"):
        DiffusionPolicy.from_pretrained(folder)


def test_weights_of_another_save(saved, tmp_path):
    folder, _ = saved
    randomize(DiffusionPolicy(TINY), seed=5).save_pretrained(tmp_path / "other")
    (folder / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="not the file"):
        DiffusionPolicy.from_pretrained(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("network.segment"), "missing 'network.segment'"),
        (lambda t: t.__setitem__("network.extra", torch.zeros(1)), "unknown 'network.extra'"),
        (lambda t: t.__setitem__("network.segment", torch.zeros(2, 17)), r"shape \(2, 17\).*\(2, 16\)"),
        (lambda t: t["network.head.out.bias"].fill_(float("nan")), "'network.head.out.bias' holds NaN"),
        (lambda t: t["normalizer.low_m"].fill_(float("-inf")), "'normalizer.low_m' holds NaN or infinity"),
    ],
)
def test_wrong_weights_are_named(saved, change, message):
    folder, _ = saved
    edit_weights(folder, change)
    with pytest.raises(CheckpointError, match=message):
        DiffusionPolicy.from_pretrained(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.update(version=99), "version 99"),
        (lambda d: d.update(format="other"), "format 'other'"),
        (lambda d: d.pop("weights_sha256"), "weights_sha256"),
        (lambda d: d.pop("config"), "config"),
        (lambda d: d["config"].update(n_layers=3), "Did you mean 'n_layer'"),
        (lambda d: d["config"].pop("n_layer"), "n_layer"),
        (lambda d: d["config"].update(n_head=3), "n_head"),
        (lambda d: d["config"].update(n_emb="wide"), "not valid"),
        (lambda d: d["config"].update(n_layer=3), "missing"),
    ],
)
def test_wrong_config_is_named(saved, change, message):
    folder, _ = saved
    edit_config(folder, change)
    with pytest.raises(CheckpointError, match=message):
        DiffusionPolicy.from_pretrained(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\xff"])
def test_config_that_is_no_json_object(saved, text):
    folder, _ = saved
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError):
        DiffusionPolicy.from_pretrained(folder)


def test_a_pickle_is_never_opened(saved):
    folder, policy = saved
    torch.save(policy.state_dict(), folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        DiffusionPolicy.from_pretrained(folder)


def test_a_crash_while_writing_leaves_the_old_file_whole(saved, monkeypatch):
    folder, policy = saved
    before = (folder / "model.safetensors").read_bytes()

    def crash(_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        randomize(policy, seed=8).save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert len(list(folder.iterdir())) == 2
    monkeypatch.undo()
    DiffusionPolicy.from_pretrained(folder)


def test_another_sampling_default_is_part_of_the_checkpoint(tmp_path):
    DiffusionPolicy(dataclasses.replace(TINY, num_inference_steps=5)).save_pretrained(tmp_path)
    assert DiffusionPolicy.from_pretrained(tmp_path).config.num_inference_steps == 5
