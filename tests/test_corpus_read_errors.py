"""What the system could not read once is read again by a later run."""

import resource
from dataclasses import replace
from pathlib import Path

import pytest
from test_corpus_packed import RATE_HZ, corpus, interrupted
from test_corpus_sources import make_fsdd

from asr import audio
from asr.corpus.packed import PackedCorpus, pack
from asr.jobs.prepare import prepare
from asr.jobs.recipe import compose


@pytest.fixture
def denied(monkeypatch):
    """Names of recordings that cannot be opened now, as there are too many open files."""
    names, read = set(), audio.read

    def read_or_not(source, *args, **kwargs):
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        if Path(source).name in names:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            return read(source, *args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    monkeypatch.setattr(audio, "read", read_or_not)
    return names


def test_what_the_system_could_not_read_is_packed_as_soon_as_it_can(tmp_path, denied):
    us, stem = corpus(tmp_path / "audio"), tmp_path / "out" / "a"
    denied |= {"3.wav", "7.wav"}
    report = pack(us, stem, rate_hz=RATE_HZ)
    assert (report.packed, report.counts) == (10, {"read error": 2})
    assert report.left_out[0].detail.endswith("3.wav cannot be read: Too many open files")
    assert pack(us, stem, rate_hz=RATE_HZ).resumed == 12  # nothing has changed, nothing is done again
    denied.remove("7.wav")
    assert [p.id for p in pack(us, stem, rate_hz=RATE_HZ).left_out] == ["u3"]
    denied.clear()
    assert pack(us, stem, rate_hz=RATE_HZ).packed == len(PackedCorpus(stem)) == 12


def test_an_interrupted_run_goes_on_where_the_system_can_read_again(tmp_path, denied):
    us = corpus(tmp_path / "audio", 40)
    denied |= {"3.wav", "20.wav"}
    interrupted(us, tmp_path / "same" / "a", 32)
    interrupted(us, tmp_path / "out" / "a", 32)
    assert pack(us, tmp_path / "same" / "a", rate_hz=RATE_HZ).resumed == 32
    denied.remove("20.wav")
    report = pack(us, tmp_path / "out" / "a", rate_hz=RATE_HZ)
    assert (report.resumed, report.packed, [p.id for p in report.left_out]) == (20, 39, ["u3"])


def test_a_published_corpus_is_prepared_again_while_recordings_of_it_could_not_be_read(tmp_path, denied):
    make_fsdd(tmp_path / "recordings")
    recipe = compose(["fsdd", f"data.root={tmp_path}", f"data.dir={tmp_path / 'data'}", "data.workers=1"])
    recipe = replace(recipe, data=replace(recipe.data, extra={}))
    denied.add("0_theo_10.wav")
    assert len(prepare(recipe).open("train")) == 11
    denied.clear()
    assert len(prepare(recipe).open("train")) == 12
