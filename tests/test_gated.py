import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub.constants
import pytest

from speechexp.errors import UserError
from speechexp.gated import Page, require_access

MODEL = Page("model", "pyannote/speaker-diarization-3.1")
PART = Page("model", "pyannote/segmentation-3.0")
CALLS = Page("dataset", "talkbank/callhome")
OPEN = Page("model", "anyone/open")
URLS = {
    MODEL: "https://huggingface.co/pyannote/speaker-diarization-3.1",
    PART: "https://huggingface.co/pyannote/segmentation-3.0",
    CALLS: "https://huggingface.co/datasets/talkbank/callhome",
}
TOKEN = "hf_" + "q7" * 17
ANONYMOUS = (
    401,
    "GatedRepo",
    "Access to it is restricted. You must be authenticated to access it. Please log in.",
)
NOT_ACCEPTED = (
    403,
    "GatedRepo",
    "Access is restricted and you are not in the authorized list. Visit it to ask.",
)
WAITING = (403, "GatedRepo", "Your request to access it is awaiting a review from the repo authors.")
FINE_GRAINED = (
    403,
    "GatedRepo",
    "Please enable access to public gated repositories in your fine-grained token settings.",
)
UNKNOWN = (401, "", "Invalid credentials in Authorization header")
MISSING = (404, "RepoNotFound", "Repository not found")


class Gates(http.server.BaseHTTPRequestHandler):
    """Answers ``auth-check`` as the hub does, by repository; those with no answer of their own are open."""

    token: ClassVar[str] = TOKEN  # the one that is known
    answers: ClassVar[dict[str, tuple[int, str, str]]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        repository = self.path.removesuffix("/auth-check").split("/", 3)[-1]
        self.asked.append(repository)
        sent = self.headers.get("Authorization")
        answer = self.answers.get(repository)
        if sent is not None and sent != f"Bearer {self.token}":
            answer = UNKNOWN
        elif answer is not None and sent is None and answer[0] != 404:
            answer = ANONYMOUS
        status, code, said = answer or (200, "", "")
        body = json.dumps({"error": said} if said else {}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if said:
            self.send_header("X-Error-Message", said)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Gates]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gates)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(Gates, "answers", dict.fromkeys([page.repository for page in URLS], NOT_ACCEPTED))
    monkeypatch.setattr(Gates, "asked", [])
    yield Gates
    server.shutdown()
    server.server_close()


def refused(*pages: Page) -> str:
    with pytest.raises(UserError) as raised:
        require_access(pages)
    assert TOKEN not in str(raised.value)
    assert raised.value.__cause__ is None  # whose request holds the token
    return str(raised.value)


def test_pages_whose_conditions_are_not_accepted_are_all_named(hub: type[Gates]) -> None:
    del hub.answers[PART.repository]

    message = refused(MODEL, PART, OPEN, CALLS)

    assert f"{URLS[MODEL]}: accept its conditions there" in message
    assert f"{URLS[CALLS]}: accept its conditions there" in message
    assert URLS[PART] not in message
    assert OPEN.repository not in message


def test_accepted_conditions_say_nothing(hub: type[Gates]) -> None:
    hub.answers.clear()

    require_access([MODEL, PART, CALLS, MODEL])

    assert [name for name in hub.asked if name] == [page.repository for page in URLS]


def test_no_token_says_how_to_come_to_one(hub: type[Gates], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")

    message = refused(MODEL, OPEN, CALLS)

    assert "there is no token" in message
    assert "https://huggingface.co/settings/tokens" in message
    assert "HF_TOKEN" in message
    assert "hf auth login" in message
    assert URLS[MODEL] in message
    assert URLS[CALLS] in message
    assert OPEN.repository not in message


def test_no_token_is_needed_for_what_is_open(hub: type[Gates], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")

    require_access([OPEN])


def test_token_that_the_hub_refuses(hub: type[Gates], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "token", "hf_another")

    message = refused(MODEL, OPEN, CALLS)

    assert message.startswith("The hub refuses the token in HF_TOKEN")
    assert URLS[MODEL] in message
    assert URLS[CALLS] in message
    assert OPEN.repository not in message


def test_stored_token_is_named_as_such(
    hub: type[Gates], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr(hub, "token", "hf_another")

    assert "the token that `hf auth login` has kept" in refused(MODEL)


def test_token_that_may_not_read_gated_repositories(hub: type[Gates]) -> None:
    hub.answers[MODEL.repository] = FINE_GRAINED

    message = refused(MODEL, CALLS)

    assert f"{URLS[MODEL]}: the token may not read gated repositories" in message
    assert f"{URLS[CALLS]}: accept its conditions there" in message
    assert "enable read access to public gated repositories" in message


def test_request_that_is_not_answered_yet(hub: type[Gates]) -> None:
    hub.answers[CALLS.repository] = WAITING

    message = refused(CALLS)

    assert "have not answered it yet" in message
    assert "accept" not in message


@pytest.mark.parametrize("token", ["hf_ñandú", "hf_two words"])
def test_what_can_be_no_token_is_refused_unseen(
    hub: type[Gates], monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)

    message = refused(MODEL)

    assert message.startswith("The token in HF_TOKEN can be none")
    assert token not in message


def test_page_that_is_not_there_is_for_others_to_say(hub: type[Gates]) -> None:
    hub.answers[MODEL.repository] = MISSING

    require_access([MODEL])


def test_nothing_is_asked_for_no_pages_or_offline(
    hub: type[Gates], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    require_access([])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    require_access([MODEL])

    assert hub.asked == []
    assert capfd.readouterr().out == ""


def test_hub_that_does_not_answer_is_left_to_those_who_fetch(
    hub: type[Gates], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")

    require_access([MODEL])

    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


CHILD = """
from speechexp.errors import UserError
from speechexp.gated import Page, require_access

try:
    require_access([Page("model", "pyannote/segmentation-3.0")])
except UserError as error:
    print(error)
"""


def test_environment_alone_says_which_hub_and_which_token(hub: type[Gates], tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "HF_ENDPOINT": huggingface_hub.constants.ENDPOINT,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path),
        "HF_TOKEN": TOKEN,
    }

    child = subprocess.run(
        [sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, timeout=60, check=True
    )

    assert f"{URLS[PART]}: accept its conditions there" in child.stdout
    assert TOKEN not in child.stdout + child.stderr
