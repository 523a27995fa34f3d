"""Whom the viewer answers: tokens, hosts, posts, limits; each line of the issue."""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from digipath_ray.viewer.app import make_app
from digipath_ray.viewer.collection.collection import open_collection
from digipath_ray.viewer.queue.queue import Starts
from digipath_ray.viewer.server import auth as trust_module
from digipath_ray.viewer.server.auth import Trust, is_loopback, make_trust, read_token
from digipath_ray.viewer.server.limits import Busy, Gate, Limits, Rate
from tests.viewing import (
    ADDRESS,
    POST,
    client,
    url_of,
    viewed_run,
    viewing,
    write_gradient,
)

TOKEN = "a-token-of-more-than-16-characters"


@pytest.fixture
def anyio_backend() -> str:
    """What the server runs on."""
    return "asyncio"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[TestClient]:
    """A viewer that asks for a token."""
    with client(viewed_run(tmp_path), trust=Trust(token=TOKEN)) as browser:
        yield browser


# Tokens


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.8.8.8", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.5", False), ("node7", False)],
)  # fmt: skip
def test_only_loopback_needs_no_token(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    assert (make_trust(host).token is None) is loopback


def test_a_made_up_token_is_long_and_new() -> None:
    first, second = make_trust("0.0.0.0").token, make_trust("0.0.0.0").token
    assert first is not None
    assert len(first) >= 43
    assert first != second


def test_who_comes_through_a_proxy_needs_a_token() -> None:
    trust = make_trust("127.0.0.1", allowed=["viewer.example.org"])
    assert trust.token is not None
    assert trust.knows_host("viewer.example.org")
    assert not trust.knows_host("10.0.0.1")


def test_a_token_given_is_asked_for_on_loopback_too() -> None:
    assert make_trust("127.0.0.1", token=TOKEN).token == TOKEN


@pytest.mark.parametrize(
    "path",
    ["/api/cohort", "/api/events", "/api/export/csv", "/api/slides/0123456789abcdef",
     "/api/jobs"],
)  # fmt: skip
def test_without_the_token_nothing_is_told(guarded: TestClient, path: str) -> None:
    answer = guarded.get(path)
    assert answer.status_code == 401
    assert set(answer.json()) == {"error", "hint"}


def test_the_token_gives_a_cookie_that_no_script_reads(guarded: TestClient) -> None:
    answer = guarded.post("/api/login", json={"token": TOKEN}, headers=POST)
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert guarded.get("/api/cohort").status_code == 200
    guarded.cookies.clear()
    assert guarded.get("/api/cohort").status_code == 401


def test_a_program_may_send_the_token_as_a_bearer(guarded: TestClient) -> None:
    right = {"Authorization": f"Bearer {TOKEN}"}
    wrong = {"Authorization": f"Bearer {TOKEN}x"}
    assert guarded.get("/api/cohort", headers=right).status_code == 200
    assert guarded.get("/api/cohort", headers=wrong).status_code == 401


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], f"{TOKEN} ", 7, None, "é"])
def test_a_wrong_token_is_none(guarded: TestClient, token: object) -> None:
    answer = guarded.post("/api/login", json={"token": token}, headers=POST)
    assert answer.status_code in (400, 401)
    assert "set-cookie" not in answer.headers
    assert guarded.get("/api/cohort").status_code == 401


def test_tokens_and_cookies_are_compared_in_constant_time(
    guarded: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def spy(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return False

    monkeypatch.setattr(trust_module.hmac, "compare_digest", spy)
    guarded.post("/api/login", json={"token": "first"}, headers=POST)
    guarded.get("/api/cohort")
    assert (b"first", TOKEN.encode()) in compared
    assert len(compared) == 2


def test_the_token_is_in_no_log(
    guarded: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    guarded.post("/api/login", json={"token": TOKEN}, headers=POST)
    guarded.post("/api/login", json={"token": f"{TOKEN}x"}, headers=POST)
    guarded.get("/api/cohort", headers={"Authorization": f"Bearer {TOKEN}"})
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(Trust(token=TOKEN))


def test_tokens_cannot_be_guessed_for_long(guarded: TestClient) -> None:
    codes = [
        guarded.post("/api/login", json={"token": str(i)}, headers=POST).status_code
        for i in range(12)
    ]
    assert codes == [401] * 10 + [429] * 2


def test_a_token_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        read_token(file)
    file.chmod(0o600)
    assert read_token(file) == TOKEN
    file.write_text("short")
    with pytest.raises(
        ValueError, match="token needs at least 16 ASCII characters: create one with"
    ):
        read_token(file)


def test_guessing_by_bearer_counts_as_logging_in(guarded: TestClient) -> None:
    def ask(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return guarded.get("/api/cohort", headers=headers).status_code

    assert [ask(str(i)) for i in range(12)] == [401] * 10 + [429] * 2
    assert ask(TOKEN) == 429  # else the right one would still be told from the others


def test_half_a_character_is_a_wrong_token(guarded: TestClient) -> None:
    headers = {**POST, "Content-Type": "application/json"}
    body = b'{"token": "\\ud800"}'
    answer = guarded.post("/api/login", content=body, headers=headers)
    assert answer.status_code == 401
    raw = {b"authorization": b"Bearer \xed\xa0\x80"}
    assert guarded.get("/api/cohort", headers=raw).status_code == 401


def test_several_servers_with_one_token_know_each_others_cookies(
    guarded: TestClient,
) -> None:
    assert Trust(token=TOKEN).session == Trust(token=TOKEN).session
    assert Trust(token=TOKEN).session != Trust(token=f"{TOKEN}x").session


def test_below_a_path_of_a_host_it_is_the_same(tmp_path: Path) -> None:
    app = make_app(
        open_collection([viewed_run(tmp_path).root]), trust=Trust(token=TOKEN)
    )
    with TestClient(app, base_url=ADDRESS, root_path="/view") as browser:
        assert browser.get("/view/").status_code in (200, 503)  # the page, or not built
        assert browser.get("/view/api/cohort").status_code == 401
        login = {"token": TOKEN}
        answer = browser.post("/view/api/login", json=login, headers=POST)
        assert answer.status_code == 200
        assert browser.get("/view/api/cohort").status_code == 200


def test_who_can_start_runs_needs_a_token_on_loopback_too() -> None:
    assert make_trust("127.0.0.1", starts_runs=True).token is not None


# Hosts


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.1",
                                  "127.0.0.1.nip.io:8000", "10.0.0.5",
                                  "127.0.0.1:8000@evil.example", "[::1]evil.example",
                                  "127.0.0.1/@evil.example"])  # fmt: skip
def test_a_name_that_is_not_ours_is_refused(tmp_path: Path, host: str) -> None:
    with client(viewed_run(tmp_path)) as browser:
        answer = browser.get("/api/cohort", headers={"host": host})
    assert answer.status_code == 421
    assert "slides" not in answer.text


@pytest.mark.parametrize(
    "host", ["localhost:9", "LOCALHOST", "127.0.0.1", "[::1]:8000"]
)
def test_names_of_this_machine_will_do(tmp_path: Path, host: str) -> None:
    with client(viewed_run(tmp_path)) as browser:
        assert browser.get("/api/cohort", headers={"host": host}).status_code == 200


def test_hosts_off_loopback() -> None:
    trust = make_trust("0.0.0.0", allowed=["Path.Hospital.example:443"])
    assert trust.knows_host("path.hospital.example")
    assert trust.knows_host("10.1.2.3:8000")
    assert trust.knows_host("[fe80::1]:8000")
    assert not trust.knows_host("evil.example")


@pytest.mark.parametrize(
    ("site", "code"), [("cross-site", 403), ("same-origin", 200), ("none", 200)]
)
def test_what_another_site_shows_is_not_ours(
    tmp_path: Path, site: str, code: int
) -> None:
    with client(viewed_run(tmp_path)) as browser:
        headers = {"sec-fetch-site": site}
        assert browser.get("/api/cohort", headers=headers).status_code == code


def request_of(line: str, *headers: str) -> bytes:
    return "\r\n".join([line, *headers, "Connection: close", "", ""]).encode()


GET = "GET /api/cohort HTTP/1.1"
RAW = {
    "no host": ((GET,), (400, 421)),
    "an old one without a host": (("GET /api/cohort HTTP/1.0",), (421,)),
    "two hosts": ((GET, "Host: {here}", "Host: evil.example"), (400,)),
    "two hosts, ours last": ((GET, "Host: evil.example", "Host: {here}"), (400,)),
    "a login before the host": ((GET, "Host: {here}@evil.example"), (421,)),
    "another's address": (
        ("GET http://{here}/api/cohort HTTP/1.1", "Host: evil.example"),
        (421,),
    ),
    "a proxy's word": (
        (GET, "Host: evil.example", "X-Forwarded-Host: {here}", "Forwarded: host={here}"),  # noqa: E501 - one request
        (421,),
    ),
    "a way out": (("GET /../../../etc/passwd HTTP/1.1", "Host: {here}"), (404,)),
    "Windows's way out": (("GET /assets/..\\..\\x HTTP/1.1", "Host: {here}"), (404,)),
    "a header in a path": (
        ("GET /%0d%0aSet-Cookie:x=1 HTTP/1.1", "Host: {here}"),
        (404,),
    ),
    "a tunnel": (("CONNECT evil.example:443 HTTP/1.1", "Host: {here}"), (404, 405)),
    "two lengths": (
        ("POST /api/login HTTP/1.1", "Host: {here}", "Content-Length: 5",
         "Transfer-Encoding: chunked"),
        (400, 403),
    ),
    "another site's socket": (
        ("GET /api/events HTTP/1.1", "Host: {here}", "Upgrade: websocket",
         "Origin: http://evil.example", "Sec-Fetch-Site: cross-site"),
        (403,),
    ),
    "no HTTP": (("\x16\x03\x01",), (400,)),
    "an endless header": ((GET, "Host: {here}", "X: " + "a" * 300_000), (400, 431)),
}  # fmt: skip
"""Requests that no client library sends, and the answers that will do."""


@pytest.mark.slow
def test_requests_as_an_attacker_sends_them(tmp_path: Path) -> None:
    with viewing(viewed_run(tmp_path).root) as (url, process):
        port = int(url.split(":")[2].split("/")[0])
        here = f"127.0.0.1:{port}"
        right = send(port, request_of(GET, f"Host: {here}"))
        assert right.startswith(b"HTTP/1.1 200")
        assert b"without" in right
        for what, (lines, codes) in RAW.items():
            asked = [line.replace("{here}", here) for line in lines]
            answer = send(port, request_of(*asked))
            assert b"without" not in answer, what
            assert b"root:" not in answer, what
            assert b"set-cookie" not in answer.lower(), what
            if answer:  # else the connection was cut
                assert int(answer.split()[1]) in codes, (what, answer[:80])
        assert send(port, request_of(GET, f"Host: {here}")) != b""
        assert process.poll() is None


def send(port: int, request: bytes) -> bytes:
    """The whole answer to some bytes; what came of it if the connection is cut."""
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall(request)
        while part := connection.recv(1 << 16):
            answer += part
    return answer


# Posts


@pytest.mark.parametrize(
    "change",
    [{"X-Digipath": ""}, {"Origin": "https://evil.example"}, {"Origin": "null"},
     {"Origin": "http://127.0.0.1:9999"}, {"Content-Type": "text/plain"},
     {"Content-Type": "application/x-www-form-urlencoded"}],
)  # fmt: skip
def test_a_post_of_another_site_is_refused(
    guarded: TestClient, change: dict[str, str]
) -> None:
    headers = {**POST, "Content-Type": "application/json", **change}
    answer = guarded.post(
        "/api/login", content=f'{{"token": "{TOKEN}"}}', headers=headers
    )
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_a_post_without_an_origin_is_refused(guarded: TestClient) -> None:
    headers = {"X-Digipath": "1"}
    answer = guarded.post("/api/login", json={"token": TOKEN}, headers=headers)
    assert answer.status_code == 403


@pytest.mark.parametrize("body", ["[]", "x", "", "[" * 100_000, '"a"', "\xff"])
def test_a_post_that_is_no_object_is_refused(guarded: TestClient, body: str) -> None:
    headers = {**POST, "Content-Type": "application/json"}
    answer = guarded.post("/api/login", content=body.encode("latin-1"), headers=headers)
    assert answer.status_code == 400


def test_a_post_is_not_endless(guarded: TestClient) -> None:
    headers = {**POST, "Content-Type": "application/json"}
    answer = guarded.post("/api/login", content=b" " * (2 << 20), headers=headers)
    assert answer.status_code == 413


def test_a_post_that_does_not_say_its_length_is_not_endless_either(
    guarded: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {**POST, "Content-Type": "application/json"}
    parts = (b" " * (1 << 18) for _ in range(8))
    answer = guarded.post("/api/login", content=parts, headers=headers)
    assert answer.status_code == 413
    assert caplog.text == ""


@pytest.mark.parametrize("path", ["/api/login", "/api/jobs/1/cancel"])
def test_no_get_changes_anything(tmp_path: Path, path: str) -> None:
    run = viewed_run(tmp_path)
    with client(run, starts=Starts(tmp_path)) as browser:
        assert browser.post(path, json={}, headers=POST).status_code != 405
        assert browser.get(path).status_code == 405


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"])
def test_other_methods_do_nothing(tmp_path: Path, method: str) -> None:
    with client(viewed_run(tmp_path)) as browser:
        answer = browser.request(method, "/api/cohort")
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


# Headers


@pytest.mark.parametrize("path", ["/", "/api/cohort", "/nothing", "/api/slides/x"])
def test_every_answer_carries_the_headers(tmp_path: Path, path: str) -> None:
    with client(viewed_run(tmp_path)) as browser:
        headers = browser.get(path).headers
    policy = headers["content-security-policy"].split("; ")
    assert "default-src 'self'" in policy
    assert "img-src 'self' data: blob:" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


def test_refusals_carry_them_too(guarded: TestClient) -> None:
    for answer in (
        guarded.get("/api/cohort"),
        guarded.get("/", headers={"host": "evil.example"}),
    ):
        assert "content-security-policy" in answer.headers
        assert answer.headers["cache-control"] == "no-store"


# Paths


@pytest.mark.parametrize(
    "path",
    ["/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/assets/../app.py",
     "/assets/..%2fapp.py", "/assets/%2e%2e%2fapp.py", "/assets/..%5capp.py",
     "/assets/%00", "/assets/index.html%00.js", "/assets//etc/passwd",
     "/api/slides/..%2f..%2fetc", "/api/slides/%2fetc%2fpasswd", "/api/slides/with",
     "/api/slides/0123456789abcdef", "/api/slides/%00", "/api/slides/",
     "/api/slides/0123456789ABCDEF", "/api/slides/" + "0" * 5000],
)  # fmt: skip
def test_no_path_leads_out(tmp_path: Path, path: str) -> None:
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("the page")
    (page / "link.js").symlink_to("/etc/passwd")
    with client(viewed_run(tmp_path), page=page) as browser:
        answer = browser.get(path)
        assert answer.status_code == 404
        assert "root:" not in answer.text
        assert browser.get("/assets/link.js").status_code == 404


@pytest.mark.parametrize(
    "rest",
    ["/tiles/12/..%2f..%2f0_0.jpg", "/tiles/x/0_0.jpg", "/tiles/-1/0_0.jpg",
     "/tiles/12/0_0.png", "/tiles/12/-1_0.jpg", "/tiles/12/99999999999999999999_0.jpg",
     "/tiles/999/0_0.jpg", "/tiles/12/0_0.jpg%00", "/tiles/%D9%A1/0_0.jpg",
     "/maps/a/..%2fmasks/0/0_0.png", "/maps/../x/0/0_0.png",
     "/maps/c/probability/0/0_0.png", "/maps/a/%00/0/0_0.png",
     "/outlines/..%2fa.geojson", "/outlines/c.geojson", "/export/..%2frun.toml",
     "/export/settings", "/run.toml"],
)  # fmt: skip
def test_no_path_below_a_slide_leads_out(tmp_path: Path, rest: str) -> None:
    slide = write_gradient(tmp_path / "s.tif", width=300, height=200)
    with client(viewed_run(tmp_path, slide)) as browser:
        assert browser.get(url_of("with", rest)).status_code == 404


# Limits


def test_an_address_may_not_ask_too_often() -> None:
    now = 0.0
    rate = Rate(2.0, 3, clock=lambda: now)
    assert [rate.takes("a") for _ in range(4)] == [True, True, True, False]
    assert rate.takes("b")
    now = 1.0
    assert [rate.takes("a") for _ in range(3)] == [True, True, False]


def test_addresses_are_not_remembered_endlessly() -> None:
    rate = Rate(1.0, 1)
    for i in range(rate.MOST_ADDRESSES + 10):
        rate.takes(str(i))
    assert len(rate._left) == rate.MOST_ADDRESSES


def test_too_many_requests_are_told_to_wait(tmp_path: Path) -> None:
    limits = Limits(rate=0.001, burst=3)
    with client(viewed_run(tmp_path), limits=limits) as browser:
        answers = [browser.get("/api/cohort") for _ in range(5)]
    assert [a.status_code for a in answers] == [200, 200, 200, 429, 429]
    assert answers[-1].headers["retry-after"] == "1"


@pytest.mark.anyio
async def test_the_line_for_decoding_is_bounded() -> None:
    gate = Gate(Limits(decodes=2, line=3))
    free = threading.Event()
    inside, most = 0, 0
    lock = threading.Lock()

    def work() -> int:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        free.wait(10)
        with lock:
            inside -= 1
        return 1

    waiting = [asyncio.create_task(gate.do(work)) for _ in range(5)]
    await asyncio.sleep(0.05)
    with pytest.raises(Busy):
        await gate.do(work)
    free.set()
    assert await asyncio.gather(*waiting) == [1] * 5
    assert most == 2
    assert gate.inside == 0
    assert await gate.do(work) == 1
    gate.close()


@pytest.mark.anyio
async def test_nothing_is_decoded_for_who_has_left() -> None:
    gate = Gate(Limits(decodes=1))
    done: list[int] = []

    async def gone() -> bool:
        return True

    assert await gate.do(lambda: done.append(1), gone) is None
    assert done == []
    gate.close()


def test_beyond_the_line_comes_503(tmp_path: Path) -> None:
    slide = write_gradient(tmp_path / "s.tif", width=300, height=200)
    app: Any = make_app(
        open_collection([viewed_run(tmp_path, slide).root]),
        limits=Limits(decodes=0 + 1, line=-1),
    )
    with TestClient(app, base_url=ADDRESS) as browser:
        answer = browser.get(url_of("with", "/tiles/9/0_0.jpg"))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
