"""Running: each sink gets all files or is aborted, and manifests come last."""

from __future__ import annotations

import json
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest

from cellucid_lazy.codecs import codec_for
from cellucid_lazy.engine.array_producer import ARRAYS
from cellucid_lazy.engine.output import Manifest, Output, manifest_output
from cellucid_lazy.engine.producer import Produced, Stage
from cellucid_lazy.engine.resources import Resources
from cellucid_lazy.engine.run import run
from cellucid_lazy.sinks.memory import MemorySink

make = partial(run, resources=Resources(2**26, 1, 1), scratch=None, progress=False)


class WatchedSink(MemorySink):
    """Notes what is asked of it."""

    def __init__(self, refuse=()):
        super().__init__()
        self.calls = []
        self._refuse = refuse

    def begin(self, names):
        self._note("begin")
        return super().begin(names)

    def commit(self, receipts):
        self._note("commit")
        return super().commit(receipts)

    def abort(self):
        self._note("abort")

    def _note(self, call):
        self.calls.append(call)
        if call in self._refuse:
            raise OSError(call)


def output(value, name="a"):
    array = da.full(4, value, chunks=2)
    return Output(name, "a", None, array.shape, array.dtype, lambda: array)


def failing(error):
    def fail(block):
        raise error

    array = da.zeros(4, chunks=2).map_blocks(fail, dtype=float, meta=np.empty(0))
    return Output("a", "a", None, (4,), array.dtype, lambda: array)


def test_a_sink_is_committed_once():
    sink = WatchedSink()
    found = make({ARRAYS: {"a": output(1.0), "b": output(2.0)}}, sink, codec_for(None))
    assert found == {"a": np.full(4, 1.0).tobytes(), "b": np.full(4, 2.0).tobytes()}
    assert sink.calls == ["begin", "commit"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_sink_is_aborted_when_work_fails(error):
    sink = WatchedSink()
    with dask.config.set(scheduler="synchronous"), pytest.raises(error):
        make({ARRAYS: {"a": output(1.0), "b": failing(error())}}, sink, codec_for(None))
    assert sink.calls == ["begin", "abort"]


@pytest.mark.parametrize("call", ["begin", "commit"])
def test_a_sink_is_aborted_when_it_fails_itself(call):
    sink = WatchedSink(refuse=(call,))
    with pytest.raises(OSError, match=call):
        make({ARRAYS: {"a": output(1.0)}}, sink, codec_for(None))
    assert sink.calls[-2:] == [call, "abort"]


def test_cleaning_up_never_hides_what_caused_it():
    sink = WatchedSink(refuse=("abort",))
    with pytest.raises(ValueError, match="the cause") as raised:
        make({ARRAYS: {"a": failing(ValueError("the cause"))}}, sink, codec_for(None))
    assert raised.value.__notes__ == ["what was begun could not be removed: abort"]


def test_nothing_to_make():
    assert make({}, MemorySink(), codec_for(6)) == {}


class Maker:
    """A producer that computes what manifests need on the way, in two stages."""

    def __init__(self, provided):
        self._provided = provided
        self.asked = None

    def provides(self, outputs):
        return frozenset(self._provided)

    def run(self, job):
        self.asked = set(job.needs)
        (first,) = yield Stage("one", {"x": 20}, ["x"])
        done = yield Stage("other", {"y": (lambda value: value + 1, first)}, ["y"])
        values = {name: np.array([done[0]]) for name in job.needs}
        return Produced(dict.fromkeys(job.outputs, str(done[0]).encode()), values)

    def explain(self, kinds, resources):
        return ""


def test_manifests_get_what_a_producer_provides_and_arrays_compute_the_rest():
    made, other = da.zeros(1), da.full(3, 7.0)
    needs = {"made": made, "other": other}
    both = manifest_output("manifest/a", "a", Manifest(needs, shown))
    again = manifest_output("manifest/b", "b", Manifest({"other": other}, shown))
    producer = Maker([made.name, "what nobody needs"])
    groups = {ARRAYS: {"a.json": both, "b.json": again}, producer: {"file": output(0.0)}}
    files = make(groups, MemorySink(), codec_for(6))
    assert list(files) == ["a.json", "b.json", "file"]
    assert producer.asked == {made.name}
    assert files["file"] == b"21"
    # Never compressed.
    assert json.loads(files["a.json"]) == {"made": [21], "other": [7.0, 7.0, 7.0]}
    assert json.loads(files["b.json"]) == {"other": [7.0, 7.0, 7.0]}
    # The lazy manifest computes everything itself.
    assert json.loads(bytes(both.compute())) == {"made": [0.0], "other": [7.0, 7.0, 7.0]}


def shown(values):
    return {name: value.tolist() for name, value in values.items()}


def test_a_manifest_that_holds_nan_is_refused():
    """It would make the dataset unreadable."""
    one = manifest_output("manifest/a", "a", Manifest({"x": da.full(1, np.nan)}, shown))
    sink = WatchedSink()
    with pytest.raises(ValueError, match="not JSON compliant"):
        make({ARRAYS: {"a.json": one}}, sink, codec_for(None))
    assert sink.calls == ["begin", "abort"]
