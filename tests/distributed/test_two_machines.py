"""The command for two machines, between two network namespaces of this one: hosts that share nothing but a cable."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT

IP = shutil.which("ip", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
FIRST, SECOND = f"sb3-trpo-a-{os.getpid()}", f"sb3-trpo-b-{os.getpid()}"
ADDRESSES = {FIRST: "10.77.0.1", SECOND: "10.77.0.2"}
PAGE = ROOT / "docs" / "distributed.md"


def ip(*arguments: str) -> None:
    subprocess.run([str(IP), *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    if IP is None:
        pytest.skip("needs `ip`, from iproute2, to make network namespaces")
    try:
        ip("netns", "add", FIRST)
    except subprocess.CalledProcessError:
        pytest.skip("needs the right to make network namespaces (root)")
    try:
        ip("netns", "add", SECOND)
        ip("link", "add", "cable0", "netns", FIRST, "type", "veth", "peer", "name", "cable1", "netns", SECOND)
        for end, (host, address) in enumerate(ADDRESSES.items()):
            ip("-n", host, "addr", "add", f"{address}/24", "dev", f"cable{end}")
            ip("-n", host, "link", "set", f"cable{end}", "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in ADDRESSES:
            subprocess.run([str(IP), "netns", "del", host], check=False, capture_output=True)


def test_the_documented_command_trains_one_agent_on_two_machines(hosts: None, tmp_path: Path) -> None:
    processes = []
    for rank, host in enumerate(ADDRESSES):
        # The page's own command for this machine, on other addresses, with fewer ranks and a small task.
        blocks = re.findall(r"^torchrun --nnodes (?:.*\\\n)*.*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
        command = blocks[rank].replace("\\\n", " ").replace("10.0.0.1", ADDRESSES[FIRST]).replace("Humanoid-v5", "Pendulum-v1")
        command = command.replace("--nproc-per-node 16", "--nproc-per-node 1").replace("torchrun", "", 1)
        folder = tmp_path / host
        folder.mkdir()
        launcher = [str(IP), "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", *command.split()]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": f"cable{rank}"}
        with (folder / "log.txt").open("w") as log:
            process = subprocess.Popen(
                [*launcher, "-n", "4096", "--eval-freq", "-1"], cwd=folder, env=environment, stdout=log, stderr=log
            )
        processes.append(process)
    try:
        codes = [process.wait(120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    logs = [(tmp_path / host / "log.txt").read_text() for host in ADDRESSES]
    assert codes == [0, 0], "\n".join(logs)
    # A rollout has 256 steps of two environments on each of two ranks, and the model is where rank 0 is.
    assert re.findall(r"total_timesteps\s+\| (\d+)", logs[0]) == ["1024", "2048", "3072", "4096"]
    assert len(list((tmp_path / FIRST).rglob("Pendulum-v1.zip"))) == 1
    assert not list((tmp_path / SECOND).rglob("*.zip"))
