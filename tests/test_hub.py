import time

from attrbench import hub
from attrbench.hub import hub_or_cache


def test_a_hub_that_does_not_answer_is_left_alone(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    started = time.perf_counter()
    with hub_or_cache() as answers:
        assert not answers
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    assert time.perf_counter() - started < hub.HUB_SECONDS + 1
