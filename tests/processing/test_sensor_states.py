import random
import string

import pytest

from casita.processing.sensor_states import WORDS, normalize_state, normalize_state_by_rule, state_value


@pytest.mark.parametrize(
    "raw, state",
    [
        ("ON`", "ON"),
        ("ON0", "ON"),
        ("ON+", "ON"),
        ("ON72", "ON"),
        ("ON12-end", "ON"),
        ("OFF5", "OFF"),
        ("OFFc", "OFF"),
        ("OFF17-", "OFF"),
        ("CLOSE7.3", "CLOSE"),
        ("PRESENT2.3", "PRESENT"),
        ("O", "ON"),
        ("OF", "OFF"),
        ("off", "OFF"),
        (" Open ", "OPEN"),
        ("CLOSED", "CLOSE"),
        ("true", "ON"),
        ("False", "OFF"),
        ("START_INSTRUCT", "START-INSTRUCT"),
        ("ERROR:", "ERROR"),
        ("<do>a/b.wav</do>", "DO-A-B.WAV-DO"),
        ("2.79637", "2.79637"),
        ("-3.5", "-3.5"),
        ("034", "034"),
        ("1e-5", "1E-5"),
    ],
)
def test_noise_is_mended(raw, state):
    assert normalize_state(raw) == state


@pytest.mark.parametrize("raw", ["ONE", "ON-HOLD", "ON_HOLD", "OPENS", "OFFICE", "STANDBY", "LOW"])
def test_words_of_their_own_are_left_alone(raw):
    assert normalize_state(raw) == raw.replace("_", "-")


@pytest.mark.parametrize("raw", ["", " ", "`", "_", "--"])
def test_what_is_no_state_is_an_error_that_shows_it(raw):
    with pytest.raises(ValueError, match="state") as error:
        normalize_state(raw)
    assert repr(raw) in str(error.value)


def test_a_normal_state_stays_and_fits_into_a_key_and_a_file_name():
    rng = random.Random(0)
    seen = 0
    for _ in range(5000):
        raw = rng.choice([*WORDS, "O", "", "21.5"]) + "".join(rng.choices(string.printable, k=rng.randrange(5)))
        try:
            state = normalize_state(raw)
        except ValueError:
            continue
        seen += 1
        assert normalize_state(state) == state, raw
        assert state == state.upper()
        assert not set(state) & set('_/\\:*?<>|" \t\n\0'), raw
    assert seen > 4000


def test_only_numbers_have_a_value():
    assert [state_value(state) for state in ("21.5", "-3", ".5", "1E-5", "034")] == [21.5, -3.0, 0.5, 1e-5, 34.0]
    for word in ("ON", "NAN", "INF", "1.2.3", "5W", "1-000"):
        assert state_value(word) is None


def test_the_rule_is_named():
    rules = {raw: normalize_state_by_rule(raw)[1] for raw in ("ON0", "OF", "true", "on", "3")}
    assert rules == {
        "ON0": "trailing noise",
        "OF": "cut short",
        "true": "spelling",
        "on": "case and signs",
        "3": "number",
    }
