"""The service as OpenAI's own client in Python sees it."""

import io
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from tone_model import spoken, tone_model

pytest.importorskip("uvicorn", reason="the service needs asr[serve]")
openai = pytest.importorskip("openai", reason="the official client is not installed")
from service import Echo, Running, running, wav  # noqa: E402

TEXT = "abc dab c"
SAMPLES = spoken(TEXT, seed=1, pause_s=0.3)


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with running(tone_model(), token="geheim") as opened:
        yield opened


@pytest.fixture
def client(service) -> Iterator["openai.OpenAI"]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="geheim", max_retries=0) as opened:
        yield opened


def ask(client: "openai.OpenAI", **wishes):
    file = ("talk.wav", wav(SAMPLES, subtype="FLOAT"))
    return client.audio.transcriptions.create(**({"file": file, "model": "whisper-1"} | wishes))


def test_each_format_comes_back_as_the_client_types_it(client):
    assert ask(client).text == TEXT
    assert ask(client, response_format="json").text == TEXT
    assert ask(client, response_format="text") == f"{TEXT}\n"
    times = r"00:00:0\d{sep}\d{{3}} --> 00:00:0\d{sep}\d{{3}}\n"
    assert re.fullmatch(f"1\n{times.format(sep=',')}{TEXT}\n", ask(client, response_format="srt"))
    assert re.fullmatch(rf"WEBVTT\n\n{times.format(sep='[.]')}{TEXT}\n", ask(client, response_format="vtt"))


def test_verbose_json_has_words_and_segments_as_asked_for(client):
    offline = tone_model().transcribe(SAMPLES)
    both = ask(client, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert [(w.word, w.start, w.end) for w in both.words] == [
        (w.text, w.start_s, w.end_s) for w in offline.words
    ]
    assert [w.word for w in both.words] == TEXT.split()
    assert [s.text for s in both.segments] == [TEXT]
    assert both.duration == pytest.approx(offline.duration_s, abs=1e-3)
    strict = type(both).model_validate(both.to_dict())  # which `create` does not check
    assert strict.segments[0].avg_logprob < 0 < strict.segments[0].compression_ratio
    only = ask(client, response_format="verbose_json", timestamp_granularities=["word"])
    assert (len(only.words), only.segments) == (3, None)


def test_files_may_be_paths_bytes_or_open_files(client, tmp_path):
    path = tmp_path / "my talk.wav"
    path.write_bytes(wav(SAMPLES, subtype="FLOAT"))
    assert ask(client, file=path).text == TEXT
    assert ask(client, file=path.read_bytes()).text == TEXT
    assert ask(client, file=io.BytesIO(path.read_bytes())).text == TEXT
    with path.open("rb") as file:
        assert ask(client, file=file).text == TEXT


def test_wishes_without_meaning_to_a_model_of_this_kind_do_no_harm(client):
    said = ask(client, language="en", prompt="letters", temperature=0.2, model="tones")
    assert said.text == TEXT


def test_models_are_listed_and_looked_up(client):
    assert [(m.id, m.object, m.owned_by) for m in client.models.list()] == [("tones", "model", "asr")]
    assert client.models.retrieve("tones").id == "tones"
    with pytest.raises(openai.NotFoundError, match="expected 'tones'"):
        client.models.retrieve("gpt-4o-transcribe")


def test_mistakes_are_the_errors_that_the_client_knows(client):
    with pytest.raises(openai.BadRequestError, match=r"notes\.wav is not a recording") as wrong:
        ask(client, file=("notes.wav", b"this is no sound"))
    assert (wrong.value.code, wrong.value.param) == ("invalid_audio", "file")
    assert wrong.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="response_format") as wrong:
        ask(client, response_format="diarized_json")
    assert wrong.value.param == "response_format"
    with pytest.raises(openai.NotFoundError) as wrong:
        ask(client, model="gpt-4o-transcribe")
    assert wrong.value.code == "model_not_found"


def test_a_wrong_token_is_an_authentication_error(service, client):
    stranger = client.with_options(api_key="guessed")
    for call in (lambda: ask(stranger), lambda: stranger.models.list()):
        with pytest.raises(openai.AuthenticationError) as refused:
            call()
        assert refused.value.code == "invalid_api_key"


def test_a_large_upload_and_a_failure_inside_have_their_own_errors():
    with (
        running(Echo(), upload_bytes=20_000) as service,
        openai.OpenAI(base_url=f"{service.url}/v1", api_key="any", max_retries=0) as client,
    ):
        with pytest.raises(openai.APIStatusError, match="larger than") as refused:
            ask(client, file=("a.wav", wav(np.zeros(11_000))))
        assert refused.value.status_code == 413
        with pytest.raises(openai.InternalServerError, match="could not be recognised") as failed:
            ask(client, file=("a.wav", wav(np.zeros(1234))))
        assert "secret" not in str(failed.value)
        assert ask(client, file=("a.wav", wav())).text == "one two"


def test_the_client_comes_again_when_the_queue_was_full():
    model = Echo()
    with (
        running(model, waiting=1) as service,
        openai.OpenAI(base_url=f"{service.url}/v1", api_key="any", max_retries=2) as client,
        ThreadPoolExecutor(3) as pool,
    ):
        model.go.clear()
        answers = [pool.submit(ask, client)]
        while not model.batches:
            time.sleep(0.01)
        answers += [pool.submit(ask, client) for _ in range(2)]
        while 'status="503"' not in httpx.get(f"{service.url}/metrics", trust_env=False).text:
            time.sleep(0.01)
        model.go.set()
        assert [answer.result().text for answer in answers] == ["one two"] * 3
