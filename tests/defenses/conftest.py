"""One thread for every test here."""

import pytest

from tests import tiny

one_thread = pytest.fixture(autouse=True)(tiny.one_thread)
