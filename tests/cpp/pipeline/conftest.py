"""The program n2m, from the installed package."""

import pytest
from parity import installed_prefix


@pytest.fixture(scope="session")
def program():
    found = installed_prefix() / "bin" / "n2m"
    if not found.is_file():
        pytest.skip("the package was built without n2m")
    return found
