import pytest

from infinitetalk.planning.speakers import speaker_starts


@pytest.mark.parametrize(
    ("lengths", "order", "starts"),
    [
        ((5,), "together", (0,)),
        ((5, 3), "together", (0, 0)),
        ((5, 3), "first_then_second", (0, 5)),
        ((5, 3), "second_then_first", (3, 0)),
        ((5, 3, 4), "first_then_second", (0, 5, 8)),
        ((5, 3, 4), "second_then_first", (7, 4, 0)),
    ],
)
def test_turns_begin_where_the_one_before_ends(lengths, order, starts):
    assert speaker_starts(lengths, order) == starts
