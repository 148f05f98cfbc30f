"""What a program finds under `import wardstream`."""

import subprocess
import sys

import pytest

import wardstream


@pytest.mark.parametrize("name", ["login", "connect", "Feature", "Project"])
def test_the_sdk_is_found_under_the_packages_own_name(name: str) -> None:
    assert name in dir(wardstream)
    assert getattr(wardstream, name).__name__ == name


def test_importing_a_part_of_the_kernel_does_not_import_arrow() -> None:
    script = "import sys; from wardstream import errors, processes; import wardstream.client.transport; sys.exit('pyarrow' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
