"""What a form keeps, where a login leads, and that the style sheet can be read."""

import re
from itertools import product
from pathlib import Path

import pytest
from starlette.datastructures import FormData

from gateway.console.forms import Field, Form, Sent
from gateway.console.visit import FOLDER, form_token, within
from wardstream.errors import Invalid


def test_a_form_that_is_shown_again_has_what_was_entered() -> None:
    form = Form("t", "b", "/", [Field("name", "Name"), Field("reads", "Reads", "several"), Field("open", "Open", "mark", value="yes")])
    sent = Sent(FormData([("name", " sam "), ("reads", "ecg"), ("reads", "vitals")]))
    name, reads, mark = form.filled(sent).fields
    assert (name.value, reads.chosen, mark.value) == ("sam", frozenset({"ecg", "vitals"}), "")


@pytest.mark.parametrize(
    ("text", "time"), [("", None), ("2026-12-31T18:00", "2026-12-31T18:00:00+00:00"), ("2026-12-31T18:00Z", "2026-12-31T18:00:00+00:00")]
)
def test_times_are_entered_in_utc(text: str, time: str | None) -> None:
    assert Sent(FormData([("at", text)])).time("at", "Ends at") == time


def test_a_time_or_columns_that_cannot_be_read_say_what_would_be_right() -> None:
    with pytest.raises(Invalid, match="2026-12-31T18:00"):
        Sent(FormData([("at", "tomorrow")])).time("at", "Ends at")
    with pytest.raises(Invalid, match="dataset: column"):
        Sent(FormData([("columns", "vitals_1 ward")])).columns("columns")
    assert Sent(FormData([("columns", "vitals_1: ward, risk\n\n")])).columns("columns") == [
        {"dataset": "vitals_1", "names": ["ward", "risk"]}
    ]


@pytest.mark.parametrize(
    ("asked", "leads"),
    [
        ("/console/projects/icu-west/members", "/console/projects/icu-west/members"),
        (None, "/console/"),
        ("", "/console/"),
        ("https://elsewhere.example/console/", "/console/"),
        ("//elsewhere.example/console/", "/console/"),
        ("/console//elsewhere.example", "/console/"),
        ("/console/\\elsewhere.example", "/console/"),
        ("/console/\r\nSet-Cookie: a=b", "/console/"),
        ("/api/v1/whoami", "/console/"),
    ],
)
def test_a_login_leads_into_the_console_alone(asked: str | None, leads: str) -> None:
    assert within(asked) == leads


def test_every_session_has_a_form_token_of_its_own() -> None:
    assert form_token("a") == form_token("a") != form_token("b")
    assert "wss_secret" not in form_token("wss_secret")


def test_text_has_contrast_on_every_ground_in_light_and_dark() -> None:
    for palette in re.findall(r":root \{([^}]*--ink[^}]*)\}", (FOLDER / "static" / "style.css").read_text()):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", palette))
        for text, ground in product(("ink", "quiet", "accent", "good", "bad", "wait"), ("paper", "raised")):
            # WCAG 2.2, 1.4.3: text of this size.
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def test_no_template_has_script_or_style_of_its_own_or_leaves_a_value_unescaped() -> None:
    for template in Path(FOLDER / "templates").glob("*.html"):
        text = template.read_text()
        assert not re.search(r"<style|style=|\bon\w+=|javascript:|\|\s*safe|autoescape", text), template.name
        assert set(re.findall(r"<script[^>]*>", text)) <= {'<script src="/console/htmx.min.js" defer>'}, template.name
        assert "http://" not in text, template.name
        assert "https://" not in text, template.name


def _contrast(one: str, other: str) -> float:
    lights = sorted((_luminance(one), _luminance(other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
