"""Transfers are tried again, bounded and told about; what the hosts refuse is one line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from local_hosts import Hosts, closed_port
from published_archive import BODY, NAME, SOURCE, UNKNOWN, URL, cached, refusal

from mobilenets.fetching import fetch, network
from mobilenets.published import Source


def test_progress_up_to_the_total(site: Hosts) -> None:
    site.drip = (60_000, 0.05)
    seen: list[tuple[int, int | None]] = []
    fetch(SOURCE, progress=lambda *step: seen.append(step))
    done = [step[0] for step in seen]
    assert len(seen) > 2
    assert done == sorted(done)
    assert seen[-1] == (len(BODY), len(BODY))
    assert {step[1] for step in seen} == {len(BODY)}


def test_no_total_where_the_server_tells_none(site: Hosts) -> None:
    site.length = False
    seen: list[tuple[int, int | None]] = []
    fetch(SOURCE, progress=lambda *step: seen.append(step))
    assert {step[1] for step in seen} == {None}


def test_a_bar_on_a_terminal_alone(
    site: Hosts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(SOURCE)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fetch(SOURCE).unlink()
    fetch(SOURCE)
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{NAME}.tgz" in err


@pytest.mark.parametrize("trouble", ["cut", "status", "hang-up"])
def test_a_passing_trouble_is_tried_again(site: Hosts, trouble: str) -> None:
    if trouble == "cut":
        site.cuts = [150_000, 20_000]
    else:
        site.statuses = [503, 429] if trouble == "status" else [0, 0]
    assert fetch(SOURCE).read_bytes() == BODY
    assert site.asked == [URL] * 3


def test_an_interrupted_transfer_leaves_nothing(site: Hosts) -> None:
    site.cuts = [150_000] * 3
    message = refusal(UNKNOWN)
    assert message.startswith(f"cannot download {URL}: ")
    assert message.endswith("run again")
    assert cached() == {}


@pytest.mark.parametrize(("status", "requests"), [(403, 1), (404, 1), (503, 3)])
def test_a_lasting_refusal_is_reported(site: Hosts, status: int, requests: int) -> None:
    site.answers[URL] = status
    assert f"cannot download {URL}: HTTP status {status} " in refusal(SOURCE)
    assert site.asked == [URL] * requests
    assert cached() == {}


def test_a_host_that_is_down_is_reported_at_once(
    site: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_DELAYS", (1000.0,))
    monkeypatch.setenv("MOBILENETS_HOSTS", f"http://download.tensorflow.org={closed_port()}")
    assert refusal(SOURCE).startswith(f"cannot reach {URL}: Connection refused; check")
    assert cached() == {}


def test_a_silent_server_is_reported(site: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_TIMEOUT", 0.2)
    monkeypatch.setattr(network, "_DELAYS", ())
    monkeypatch.setattr(type(site), "name", lambda self, path: time.sleep(1) or URL)
    assert f"cannot download {URL}: timed out" in refusal(SOURCE)


def test_a_server_that_falls_silent_midway_is_asked_again(
    site: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_TIMEOUT", 0.2)
    site.cuts, site.silence = [150_000], 1.0
    assert fetch(SOURCE).read_bytes() == BODY
    assert site.asked == [URL] * 2


@pytest.mark.parametrize("length", [True, False], ids=["with a length", "without a length"])
def test_a_server_that_drips_is_given_up(
    length: bool, site: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never silent; without a length, what came would look like the whole."""
    monkeypatch.setattr(network, "_SLOWEST", 0.3)
    monkeypatch.setattr(network, "_DELAYS", (0.0,))
    site.drip, site.length = (100, 0.05), length
    assert f"cannot download {URL}: fewer than 16 KiB came in 0.3 s; run again" in refusal(UNKNOWN)
    assert site.asked == [URL] * 2
    assert cached() == {}


@pytest.mark.parametrize("redirected", [False, True], ids=["at once", "after a redirect"])
def test_a_server_whose_header_drips_is_given_up(
    redirected: bool, site: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_SLOWEST", 0.3)
    monkeypatch.setattr(network, "_DELAYS", ())
    site.drip_header = 0.05
    if redirected:
        site.answers[URL] = f"{site.url}/elsewhere.tgz"
    assert f"cannot download {URL}: fewer than 16 KiB came in 0.3 s; run again" in refusal(UNKNOWN)
    assert len(site.asked) == 1 + redirected
    assert cached() == {}


def test_an_attempt_that_was_given_up_writes_nothing(
    site: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its header is complete when another attempt writes the file."""
    monkeypatch.setattr(network, "_SLOWEST", 0.3)
    begin, attempts, going_on = network._Attempt._begin, [], []

    def late(attempt: network._Attempt, *arguments: Any, **_: Any) -> None:
        attempts.append(attempt)
        if len(attempts) == 1:
            time.sleep(0.5)
        begin(attempt, *arguments)
        going_on.append(attempt)

    monkeypatch.setattr(network._Attempt, "_begin", late)
    site.drip = (40_000, 0.05)
    assert fetch(UNKNOWN).read_bytes() == BODY
    assert len(attempts) == 2
    assert going_on == attempts[1:]


def test_a_slow_server_is_waited_for(site: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_SLOWEST", 0.3)
    site.drip = (40_000, 0.05)
    assert fetch(SOURCE).read_bytes() == BODY
    assert site.asked == [URL]


@pytest.mark.parametrize("source", [SOURCE, UNKNOWN], ids=["known hash", "first use"])
def test_a_length_that_is_too_small_is_not_believed(source: Source, site: Hosts) -> None:
    """What the client takes for the whole is the beginning alone."""
    site.lie = 100
    assert URL in refusal(source)
    assert cached() == {}


def test_a_proxy_from_the_environment_is_used(site: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOBILENETS_HOSTS")
    monkeypatch.setenv("http_proxy", site.url)
    assert fetch(SOURCE).read_bytes() == BODY
    assert site.asked == [URL]


def test_a_redirect_is_followed(site: Hosts) -> None:
    url = "https://tfhub.dev/google/imagenet/x/feature_vector/5?tf-hub-format=compressed"
    site.answers[url] = f"{site.url}/elsewhere.tar.gz"
    site.answers[f"{site.url}/elsewhere.tar.gz"] = BODY
    path = fetch(Source("hub", url))
    assert path.name == "5.tar.gz"
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_a_redirect_leads_to_no_other_scheme(site: Hosts, tmp_path: Path, scheme: str) -> None:
    secret = tmp_path / "secret.tgz"
    secret.write_bytes(BODY)
    site.answers[URL] = {"data": "data:,x"}.get(scheme, f"{scheme}://{secret}")
    for source in (SOURCE, UNKNOWN):
        assert refusal(source).startswith("cannot ")
    assert cached() == {}


def test_a_download_without_end_is_stopped(site: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_CEILING", 100_000)
    for site.length in (True, False):
        assert "is larger than" in refusal(SOURCE)
    assert cached() == {}
