"""Fixtures that several files use; what they share besides is in helpers.py."""

import os
from contextlib import contextmanager

import pytest
import torch
from helpers import SCRIPTS, load

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks are slower on many threads; for processes too
torch.set_num_threads(1)


@pytest.fixture(params=SCRIPTS)
def script(request):
    return load(request.param)


class Stream:
    def __init__(self, cuda, name):
        self.cuda = cuda
        self.name = name

    def wait_stream(self, other):
        self.cuda.events.append(f"{self.name} waits for {other.name}")


class Graph:
    def replay(self):
        self.run()


class Cuda:
    """Stands for the GPU: runs at once what is launched, and records what is launched while a graph is captured."""

    def __init__(self):
        self.events = []
        self.captures = 0
        self.graph = None  # the graph that is being captured
        self.main_stream = self.stream = Stream(self, "main")

    @contextmanager
    def use_stream(self, stream):
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    @contextmanager
    def use_graph(self, graph):
        before, self.stream = self.stream, Stream(self, "capture")
        self.captures += 1
        self.graph = graph
        try:
            yield
        finally:
            self.graph = None
        self.stream = before  # only if all went well: so does PyTorch

    def launched(self, function):
        """`function` as the GPU sees it: while a graph is captured it is recorded, and its outputs are made but not
        filled; replaying runs it on the inputs that it was captured with and fills those outputs."""
        like = None

        def launch(*inputs):
            nonlocal like
            if self.graph is None:
                self.events.append(f"called on {self.stream.name}")
                like = function(*inputs)
                return like
            outputs = tuple(torch.full_like(tensor, torch.nan) for tensor in like)

            def replay():
                self.events.append("replayed")
                for output, result in zip(outputs, function(*inputs), strict=True):
                    output.copy_(result)

            self.graph.run = replay
            return outputs

        return launch


@pytest.fixture
def cuda(monkeypatch):
    """A stand-in for the GPU, with which `capture` runs on a CPU."""
    cuda = Cuda()
    monkeypatch.setattr(torch.cuda, "Stream", lambda: Stream(cuda, "side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: cuda.stream)
    monkeypatch.setattr(torch.cuda, "stream", cuda.use_stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", cuda.use_graph)
    return cuda
