"""What counts as the same code."""

import pytest
from same_code import meaning

BEFORE = '''
def area(side):
    """The area."""
    return side * side  # square
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# square", "# as it is", True),
        ("The area.", "The area, in metres.\n\n    >>> area(2)\n    4\n    ", True),
        ('"""The area."""\n    ', "", True),
        ("side * side", "side**2", False),
        ("(side)", "(side=1)", False),
        ('"""The area."""\n    return', '"""The area."""\n    "kept"\n    return', False),
    ],
)
def test_only_comments_and_docstrings_may_differ(old, new, same):
    assert old in BEFORE
    assert (meaning(BEFORE) == meaning(BEFORE.replace(old, new))) == same
