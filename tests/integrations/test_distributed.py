"""Patched models in two processes over gloo."""

from __future__ import annotations

import socket

import pytest
import torch

from tests.integrations import distributed


@pytest.mark.parametrize("name", ["ddp", "dtensor", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_two_processes(name: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(distributed.run, (port, name), nprocs=distributed.RANKS)
