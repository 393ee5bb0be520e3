"""Gated pages of the hub: whether their conditions are accepted is asked for all of them before anything is fetched."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from speechexp.errors import UserError
from speechexp.hub import contact

_TOKENS = "https://huggingface.co/settings/tokens"
_LOGIN = "set HF_TOKEN to it (or run `hf auth login`)"
_CONDITIONS = "accept its conditions there"
_UNKNOWN_TOKEN = "the hub does not know the token"
# What the hub's refusals say, and what is to be done then; the first that is found counts.
_REFUSALS = (
    (r"fine-grained|token settings|token.*permission", "the token may not read gated repositories"),
    (r"awaiting", "your request is there, and its owners have not answered it yet"),
    (r"rejected", "its owners have rejected your request"),
    ("", _CONDITIONS),
)


@dataclass(frozen=True)
class Page:
    """A repository of the hub that may be gated.

    Attributes:
        kind: What it holds.
        repository: Its id, ``OWNER/NAME``.
    """

    kind: Literal["model", "dataset"]
    repository: str

    @property
    def url(self) -> str:
        """Where its conditions are."""
        return f"https://huggingface.co/{'datasets/' if self.kind == 'dataset' else ''}{self.repository}"


def require_access(pages: Sequence[Page]) -> None:
    """Raise unless all pages may be read with the token that there is.

    Where the hub does not answer or is not to be asked (``HF_HUB_OFFLINE``), nothing is raised: what is cached is used.
    Neither is for pages that are not there, of which those who fetch them know more.

    Args:
        pages: Everything that a run is going to fetch.

    Raises:
        UserError: It names every page that can't be read and what is to be done about it, never the token.
    """
    from huggingface_hub import constants, get_token

    asked = list(dict.fromkeys(pages))
    if not asked or constants.HF_HUB_OFFLINE:
        return
    with contact(", ".join(page.repository for page in asked)):
        if constants.HF_HUB_OFFLINE:  # as `contact` has it where the hub does not answer
            return
        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise UserError(
                f"The token {_where_the_token_is()} can be none: they are hf_ and letters. "
                f"Make one at {_TOKENS}, and {_LOGIN}."
            )
        found = {page: _refusal(page, token) for page in asked}
        if _UNKNOWN_TOKEN in found.values():
            gated = [page for page in asked if _refusal(page, False)]
            raise UserError(_about_the_token(gated))
    refused = {page: reason for page, reason in found.items() if reason}
    if refused:
        raise UserError(_without_token(list(refused)) if token is None else _with_token(refused))


def _refusal(page: Page, token: str | Literal[False] | None) -> str | None:
    """Return why a page can't be read, None if it can or if that is another's to say."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        HfApi().auth_check(page.repository, repo_type=page.kind, token=token)
    except HfHubHTTPError as error:
        said = (error.server_message or "").lower()
        if error.response.status_code == 401 and token:  # as nobody is refused, whatever else it says
            return _UNKNOWN_TOKEN
        if isinstance(error, GatedRepoError) or re.search(_REFUSALS[0][0], said):
            return next(reason for words, reason in _REFUSALS if re.search(words, said))
    except Exception:  # the network, of which those who fetch say more; its texts may hold the token
        return None
    return None


def _where_the_token_is() -> str:
    return "in HF_TOKEN" if os.environ.get("HF_TOKEN") else "that `hf auth login` has kept"


def _listed(lines: Sequence[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)


def _without_token(pages: Sequence[Page]) -> str:
    return (
        f"The hub gives these only to those who accept their conditions, and there is no token that says who asks:"
        f"{_listed([page.url for page in pages])}\n"
        f"Accept the conditions on each page with one account, make a token of it at {_TOKENS}, and {_LOGIN}."
    )


def _about_the_token(gated: Sequence[Page]) -> str:
    conditions = ""
    if gated:
        urls = _listed([page.url for page in gated])
        conditions = f" Its account must have accepted the conditions of:{urls}"
    return (
        f"The hub refuses the token {_where_the_token_is()}: it is wrong, has expired or was deleted. "
        f"Make one at {_TOKENS}, and {_LOGIN}.{conditions}"
    )


def _with_token(refused: dict[Page, str]) -> str:
    lines = _listed([f"{page.url}: {reason}" for page, reason in refused.items()])
    message = f"The account of the token {_where_the_token_is()} can't read:{lines}"
    if _REFUSALS[0][1] in refused.values():
        message += (
            f"\nAt {_TOKENS}, edit the token and enable read access to public gated repositories, "
            f"or make one of the kind Read and {_LOGIN}."
        )
    return message
