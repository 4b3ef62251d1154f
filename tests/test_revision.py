"""The revision of labcore's source: of its own checkout, else what LABCORE_REVISION says."""

import re
import subprocess

import pytest

from labcore import revision


@pytest.fixture
def asked(monkeypatch):
    """asked(root, value): the revision of a source below `root`, with LABCORE_REVISION at `value`."""

    def ask(root, value: str | None) -> str | None:
        monkeypatch.setattr(revision, "ROOT", root)
        if value is None:
            monkeypatch.delenv(revision.VARIABLE, raising=False)
        else:
            monkeypatch.setenv(revision.VARIABLE, value)
        revision.git_revision.cache_clear()
        return revision.git_revision()

    yield ask
    revision.git_revision.cache_clear()


@pytest.fixture
def checkout(tmp_path):
    """A git checkout with one commit."""
    say = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*say, "init", "-q"], check=True)
    subprocess.run([*say, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    return tmp_path


def test_a_checkout_comes_before_the_environment(asked, checkout):
    assert re.fullmatch("[0-9a-f]{12}", asked(checkout, None))
    assert re.fullmatch("[0-9a-f]{12}", asked(checkout, "from-the-environment"))


def test_a_copy_without_git_takes_the_environments(asked, tmp_path):
    assert asked(tmp_path, "0123456789ab+\n") == "0123456789ab+"
    assert asked(tmp_path, " ") is None and asked(tmp_path, None) is None


def test_another_projects_checkout_around_it_is_not_labcores(asked, checkout):
    inside = checkout / "site-packages"
    inside.mkdir()
    assert asked(inside, None) is None and asked(inside, "abc") == "abc"
