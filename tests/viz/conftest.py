"""One headless browser per file of tests; a problem of a page fails its test."""

import pytest

from tests.viz.browser import Browser


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def browser(shared_browser):
    shared_browser.problems.clear()
    yield shared_browser
    assert shared_browser.problems == []
