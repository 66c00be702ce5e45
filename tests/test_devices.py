"""What the models of one machine have of it: a device, or on a CPU cores; nobody has what another one has."""

import pytest

from miniplm_assets.assets import devices
from miniplm_assets.assets.device_lock import device_lock
from miniplm_assets.assets.devices import Share, Shares, may_see_several


@pytest.fixture(autouse=True)
def own_runtime_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_on_a_cpu_each_has_cores_of_its_own_and_never_more_threads():
    shares = Shares(3, devices=(), cores=[0, 1, 4, 5, 6, 7, 9])
    dealt = [shares.take(1), shares.take(2), shares.take(1)]
    assert dealt == [Share((), (0, 1), 2), Share((), (4, 5), 2), Share((), (6, 7), 2)]
    assert shares.take(1) is None
    shares.give_back(dealt[1])
    assert shares.take(1) == dealt[1]


@pytest.mark.parametrize(
    ("wanted", "names", "cores", "at_once"),
    [
        ("auto", (), [0, 1, 2, 3], 1),  # on a CPU one is as fast as two
        ("auto", ("0", "1", "2"), [0, 1], 3),
        (8, (), [3, 5], 2),
        (8, ("0", "1"), list(range(64)), 2),
        (1, ("0", "1"), [0, 1], 1),
    ],
)
def test_there_are_never_more_than_devices_or_cores(wanted, names, cores, at_once):
    assert Shares(wanted, devices=names, cores=cores).at_once == at_once


def test_a_model_on_two_devices_waits_until_two_are_free():
    shares = Shares("auto", devices=("0", "1", "2"), cores=[0, 1, 2, 3, 4, 5])
    one = shares.take(1)
    two = shares.take(2)
    assert (one.devices, two.devices) == (("0",), ("1", "2"))
    assert shares.take(1) is None
    shares.give_back(two)
    assert shares.take(3) is None  # which would be all
    shares.give_back(one)
    assert shares.take(4).devices == ("0", "1", "2")


def test_a_device_that_another_run_has_comes_last():
    shares = Shares("auto", devices=("0", "1"), cores=[0, 1])
    with device_lock("another run", pytest.fail, ["0"]):
        assert [shares.take(1).devices, shares.take(1).devices] == [("1",), ("0",)]


def test_fewer_at_once_still_choose_among_all_devices():
    shares = Shares(2, devices=("0", "1", "2"), cores=list(range(8)))
    with device_lock("another run", pytest.fail, ["1"]):
        assert [shares.take(1), shares.take(1)] == [Share(("0",), (), 4), Share(("2",), (), 4)]
    assert shares.take(1) is None


def test_a_process_sees_its_device_alone_and_its_number_of_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "64,2")
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    monkeypatch.delenv("POLARS_MAX_THREADS", raising=False)
    seen = Share(("GPU-1", "GPU-2"), (), 4).environment()
    assert seen["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert [seen[name] for name in devices.THREADS] == ["4", "4", "1"]


def test_on_a_cpu_the_variable_of_cuda_is_as_it_was(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Share((), (0,), 1).environment()["CUDA_VISIBLE_DEVICES"] == ""


def test_whether_there_may_be_several_is_seen_without_loading_anything(tmp_path):
    assert not may_see_several({}, tmp_path)
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert not may_see_several({}, tmp_path)
    (tmp_path / "nvidia1").touch()
    assert may_see_several({}, tmp_path)
    assert not may_see_several({"CUDA_VISIBLE_DEVICES": "1"}, tmp_path)
    assert not may_see_several({"CUDA_VISIBLE_DEVICES": ""}, tmp_path)
    assert may_see_several({"CUDA_VISIBLE_DEVICES": "0,1"}, tmp_path)


@pytest.mark.parametrize(
    ("named", "seen"),
    [(None, ("0", "1")), ("3,5", ("3", "5")), (" GPU-a , GPU-b,GPU-c", ("GPU-a", "GPU-b"))],
)
def test_devices_are_called_what_cuda_calls_them(monkeypatch, named, seen):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # of those that are named, as many as there are
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert devices.visible_devices() == seen
