"""The pages over HTTP: who comes in, what is kept, what a second press of a button does, and what a text can do."""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path

import pytest

import evaluation.people
from evaluation.people.collect import collect, going_on
from evaluation.people.exports import export
from evaluation.people.server import Limit, swapped
from evaluation.people.store import Item
from llamatrain.errors import UserError
from llamatrain.yaml_files import read_yaml
from tests.evaluation.people.page import Browser, collection, comparison, lines, settings

BETTER = "left:better"


def test_a_verdict_becomes_a_preference_and_the_last_one_publishes_the_file(tmp_path: Path) -> None:
    opened = collection(settings(tmp_path, [comparison(0), comparison(1, adversarial=True)], "raters=[anna]"))
    anna, out = Browser(opened, "anna"), tmp_path / "out.jsonl"
    left, right = anna.responses
    assert "question 0" in anna.page and "answer 0" in left and "more helpful" in anna.page
    assert anna.rate("left:slightly_better") == 200
    assert not out.exists() and len(lines(tmp_path / "out/so_far.jsonl")) == 1
    assert anna.rate(BETTER) == 400 and "which of the responses are safe" in anna.page  # the label is asked
    unsafe, safe = anna.responses
    assert anna.rate("right:significantly_better", safe="right") == 200 and "Finished" in anna.page
    first, second = lines(out)
    assert (first["chosen"], first["rejected"], first["kind"]) == (left, right, "helpfulness")
    assert first["rating"] == "slightly_better" and first["annotator"] == "anna" and "chosen_safe" not in first
    assert (second["chosen"], second["rejected"], second["kind"]) == (safe, unsafe, "safety")
    assert (second["chosen_safe"], second["rejected_safe"]) == (True, False)
    assert first["meta"]["model_chosen"] == ("old" if left.endswith("a") else "new")


def test_what_is_kept_is_a_row_of_our_own_format(tmp_path: Path) -> None:
    from llamatrain.data.kinds import PreferenceRow
    from llamatrain.data.rows import read_rows

    opened = collection(settings(tmp_path, [comparison(0)]))
    Browser(opened, "rater").rate(BETTER)
    assert [row["rating"] for row in read_rows(tmp_path / "out.jsonl", PreferenceRow)] == ["better"]


def test_an_unsafe_choice_beside_a_safe_response_and_what_cannot_be_judged_are_no_preferences(tmp_path: Path) -> None:
    rows = [comparison(n, adversarial=True) for n in range(3)]
    opened = collection(settings(tmp_path, rows))
    rater = Browser(opened, "rater")
    rater.rate(BETTER, safe="right")
    rater.rate("none")
    assert len(opened.store.verdicts()) == 2 and lines(tmp_path / "out/so_far.jsonl") == []
    rater.rate(BETTER, safe="neither")
    assert [row["chosen_safe"] for row in lines(tmp_path / "out.jsonl")] == [False]


def test_a_form_sent_twice_and_one_from_an_older_page_say_nothing_new(tmp_path: Path) -> None:
    opened = collection(settings(tmp_path, [comparison(n) for n in range(3)]))
    rater = Browser(opened, "rater")
    form = {**rater.hidden("/verdict"), "rating": BETTER}
    assert rater.send("/verdict", form) == rater.send("/verdict", form) == 200  # a double click
    assert rater.send("/verdict", {**form, "key": "another", "rating": "right:better"}) == 200  # the back button
    (verdict,) = opened.store.verdicts()
    assert verdict.content["rating"] == "better" and "question 1" in rater.page


def test_undo_opens_the_item_again_once(tmp_path: Path) -> None:
    opened = collection(settings(tmp_path, [comparison(n) for n in range(4)]))
    rater = Browser(opened, "rater")
    assert "undo" not in rater.page
    before = rater.responses
    rater.rate(BETTER)
    rater.rate(BETTER)
    form = rater.hidden("/undo")
    rater.send("/undo", form)
    rater.send("/undo", form)  # pressed twice it takes back one
    assert "question 1" in rater.page and len(opened.store.verdicts()) == 1
    rater.undo()
    assert rater.responses == before, "the sides stay as they were"
    assert lines(tmp_path / "out/so_far.jsonl") == []
    rater.rate("right:better")
    assert "question 1" in rater.page, "what was open before comes next"
    assert lines(tmp_path / "out/so_far.jsonl")[0]["chosen"] == before[1]


def test_raters_get_different_items_and_as_many_verdicts_as_asked(tmp_path: Path) -> None:
    rows = [comparison(n) for n in range(6)]
    opened = collection(settings(tmp_path, rows, "raters=[a,b,c]", "raters_per_item=2"))
    people = [Browser(opened, name) for name in "abc"]
    assert [re.findall(r"question (\d)", one.page)[0] for one in people] == ["0", "0", "1"]  # each open twice at most
    while not opened.finished.is_set():
        for one in people:
            if 'action="/verdict"' in one.page:
                one.rate(BETTER)
            else:
                one.page = one.client.get("/").text
    found = [(verdict.item, verdict.rater) for verdict in opened.store.verdicts()]
    assert len(set(found)) == len(found) == 12
    assert {item: sum(one == item for one, _ in found) for item, _ in found} == {row["id"]: 2 for row in rows}


def test_sides_are_in_random_order_by_item_and_rater(tmp_path: Path) -> None:
    opened = collection(settings(tmp_path, [comparison(0)], "raters=[a,b]"))
    orders = [
        [swapped(opened, item, rater) for item in (Item(f"pair-{n}", {}) for n in range(200))]
        for rater in opened.store.raters()
    ]
    assert all(70 < sum(order) < 130 for order in orders) and orders[1] != orders[2]
    rater = Browser(opened, "a")
    assert all(text in rater.client.get("/").text for text in rater.responses)
    first = rater.responses[0][-1]
    assert first == ("b" if orders[1][0] else "a")


def test_a_stranger_gets_nothing(tmp_path: Path) -> None:
    opened = collection(settings(tmp_path, [comparison(0)]))
    client = Browser(opened, "rater").client
    ((name, own),) = client.cookies.items()
    for cookie in ("", "x" * 32):
        client.cookies.clear()
        client.cookies.set(name, cookie)
        for path in ("/", "/static/page.css", "/join/wrong", "/join/", "/docs", "/openapi.json", "/nothing"):
            answer = client.get(path)
            assert (answer.status_code, answer.content) == (403, b""), path
    assert client.post("/verdict", data={"rating": BETTER}).status_code == 403
    codes = [client.get("/join/guess").status_code for _ in range(30)]
    assert codes[-1] == 429, "and guesses are slowed down"
    client.cookies.clear()
    client.cookies.set(name, own)
    assert client.get("/").status_code == 200, "but nobody else"


def test_a_form_without_our_token_and_one_too_large_change_nothing(tmp_path: Path) -> None:
    opened = collection(settings(tmp_path, [comparison(0)]))
    rater = Browser(opened, "rater")
    form = {**rater.hidden("/verdict"), "rating": BETTER}
    assert rater.send("/verdict", {**form, "csrf": "0" * 64}) == 400
    assert rater.send("/verdict", {**form, "item": "pair-7"}) == 400
    assert rater.send("/verdict", {**form, "more": "x" * 300_000}) == 413
    assert opened.store.verdicts() == []
    assert rater.send("/finish", form) == 403 and rater.send("/invite", {**form, "name": "me"}) == 403


def test_a_form_of_another_site_does_nothing_at_any_address(tmp_path: Path) -> None:
    opened = collection(settings(tmp_path, [comparison(0), comparison(1)]))
    rater, lead = Browser(opened, "rater"), Browser(opened, "lead")
    rater.rate(BETTER)
    number, of_rater, of_lead = (
        rater.hidden("/undo")["number"],
        rater.hidden("/undo")["csrf"],
        lead.hidden("/finish")["csrf"],
    )
    for token in ({}, {"csrf": ""}, {"csrf": "0" * 64}):
        for browser, another in ((rater, of_lead), (lead, of_rater)):
            for forged in (token, {"csrf": another}):
                browser.send("/undo", {"number": number, **forged})
                browser.send("/invite", {"name": "mallory", **forged})
                browser.send("/finish", {"sure": "yes", **forged})
                browser.send("/ask", {"text": "What?", "key": "k", **forged})
    assert [verdict.number for verdict in opened.store.verdicts()] == [int(number)]
    assert [one.name for one in opened.store.raters()] == ["lead", "rater"]
    assert not opened.finished.is_set() and not (tmp_path / "out.jsonl").exists()


def test_who_asks_too_often_waits_and_nobody_else(tmp_path: Path) -> None:
    opened = collection(settings(tmp_path, [comparison(0)], "raters=[anna,ben]"))
    anna, ben = Browser(opened, "anna"), Browser(opened, "ben")
    app = anna.client.app
    app.state.raters = Limit(rate=0, burst=2)  # type: ignore[attr-defined]
    assert [anna.client.get("/").status_code for _ in range(3)] == [200, 200, 429]
    assert anna.rate(BETTER) == 429 and opened.store.verdicts() == []
    assert anna.client.get("/static/page.css").status_code == 200, "the page stays readable"
    token = next(one.token for one in opened.store.raters() if one.name == "ben")
    assert anna.client.get(f"/join/{token}").status_code == 200 == ben.client.get("/").status_code


def test_scripts_in_texts_are_text(tmp_path: Path) -> None:
    script = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}"
    row = comparison(0, response_a=script, messages=[{"role": "user", "content": script}])
    opened = collection(settings(tmp_path, [row]))
    rater = Browser(opened, "rater")
    assert rater.page.count("&lt;script&gt;alert(1)") == 2 and "<script>" not in rater.page and "<img" not in rater.page
    assert "{{ 7*7 }}" in rater.page
    headers = rater.client.get("/").headers
    assert "default-src 'none'; script-src 'self';" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"
    assert set(re.findall(r'(?:src|href)="(.*?)"', rater.page)) == {
        f"/static/{n}" for n in ("icon.svg", "page.css", "keys.js")
    }


def test_who_leads_sees_how_far_all_are_invites_and_finishes(tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text(
        '{"messages": [{"role": "user", "content": "known"}], "chosen": "yes", "rejected": "no", "kind": "helpfulness"}'
    )
    opened = collection(settings(tmp_path, [comparison(n) for n in range(9)], f"gold={gold}", "gold_every=2"))
    lead, rater = Browser(opened, "lead"), Browser(opened, "rater")
    assert lead.send("/finish", lead.hidden("/finish")) == 400 and "nothing to publish" in lead.page
    rater.rate(BETTER)
    rater.rate(BETTER)
    assert "known" in rater.page
    rater.rate(f"{('left', 'right')[rater.responses.index('yes')]}:better")
    lead.page = lead.client.get("/").text
    assert "1 of 1 (100%)" in lead.page and "2 of 9" in lead.page
    assert lead.send("/invite", {**lead.hidden("/invite"), "name": "<b>"}) == 400
    assert lead.send("/invite", {**lead.hidden("/invite"), "name": "ben"}) == 200 and ">ben<" in lead.page
    assert lead.send("/finish", lead.hidden("/finish")) == 200
    assert len(lines(tmp_path / "out.jsonl")) == 2, "gold items are not in the file"
    assert rater.rate(BETTER) == 200 and "Finished" in rater.page
    assert len(lines(tmp_path / "out.jsonl")) == 2 and len(opened.store.verdicts()) == 3


def test_a_store_goes_on_after_a_kill_and_refuses_other_items(tmp_path: Path) -> None:
    rows = [comparison(n) for n in range(3)]
    opened = collection(settings(tmp_path, rows))
    rater = Browser(opened, "rater")
    links = opened.store.raters()
    rater.rate(BETTER)
    so_far = tmp_path / "out/so_far.jsonl"
    (row,) = lines(so_far)
    so_far.write_text('{"messages"')  # torn by the kill; the store knows better
    again = collection(settings(tmp_path, rows))
    assert lines(so_far) == [row] and again.store.raters() == links
    with pytest.raises(UserError, match="holds verdicts on other items"):
        collection(settings(tmp_path, [comparison(n) for n in range(4)]))


def test_the_end_is_made_up_for_where_a_kill_came_before_it(tmp_path: Path) -> None:
    opened = collection(settings(tmp_path, [comparison(0)]))
    rater = next(one for one in opened.store.raters() if not one.leads)
    opened.store.give(rater.name, 1, 10, lambda _: False)
    opened.store.record("pair-0", rater.name, "key", {"choice": "a", "rating": "better"})
    assert not (tmp_path / "out.jsonl").exists()
    assert collection(settings(tmp_path, [comparison(0)])).finished.is_set()
    assert len(lines(tmp_path / "out.jsonl")) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("out=out.json", "out=out.json: need a file's name that ends in .jsonl"),
        ("raters=[]", "need one name at least"),
        ("raters=[a,a]", "each once"),
        ("raters=['<b>']", "raters=<b>: need names of letters"),
        ("comparisons=null", "need a file of `llamatrain compare`"),
        ("export=potato task=red_team checkpoint_a=a", "export=potato: need task=compare"),
        ("port=70000", "port=70000: need a number in"),
    ],
)
def test_mistakes_are_named(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        settings(tmp_path, [comparison(0)], *override.split(" "))


def test_a_limit_lets_through_a_burst_and_then_its_rate() -> None:
    limit = Limit(rate=0, burst=3)
    assert [limit.passes("a") for _ in range(4)] == [True, True, True, False]
    assert limit.passes("b")


def test_verdicts_are_written_as_potato_and_argilla_have_them(tmp_path: Path) -> None:
    rows = [comparison(0), comparison(1, adversarial=True), comparison(2)]
    opened = collection(settings(tmp_path, rows, "raters=[a,b]", "raters_per_item=2"))
    for name in "ab":
        rater = Browser(opened, name)
        rater.rate(f"{('left', 'right')[rater.responses.index('answer 0 of b')]}:slightly_better")
        rater.rate(BETTER, safe=("left", "right")[rater.responses.index("answer 1 of a")])
        rater.rate("none")
    folder = export(opened, "potato")
    assert folder == tmp_path / "out.potato"
    assert [item["id"] for item in lines(folder / "items.jsonl")] == ["pair-0", "pair-1", "pair-2"]
    schemes = {one["name"]: one["labels"] for one in read_yaml(folder / "config.yaml")["annotation_schemes"]}
    state = json.loads((folder / "annotation_output/a/user_state.json").read_text())
    said = state["instance_id_to_label_to_value"]
    assert (state["user_id"], list(said)) == ("a", ["pair-0", "pair-1", "pair-2"])
    assert said["pair-0"] == [
        [{"schema": "preference", "name": "b"}, "b"],
        [{"schema": "rating", "name": "slightly_better"}, "slightly_better"],
    ]
    assert [{"schema": "safe", "name": "only_a"}, "only_a"] in said["pair-1"]
    assert said["pair-2"] == [[{"schema": "preference", "name": "cannot_judge"}, "cannot_judge"]]
    assert all(label["name"] in schemes[label["schema"]] for answers in said.values() for label, _ in answers)
    records = json.loads(export(opened, "argilla").read_text())
    assert [record["id"] for record in records] == ["pair-0", "pair-1", "pair-2"]
    assert set(records[0]) == {
        "id",
        "fields",
        "metadata",
        "suggestions",
        "responses",
        "vectors",
        "status",
        "_server_id",
    }
    said = records[0]["responses"]
    assert [one["value"] for one in said["preference"]] == ["b", "b"]
    assert len({one["user_id"] for one in said["rating"]}) == 2
    assert {one["status"] for one in said["rating"]} == {"submitted"}
    assert records[0]["fields"]["conversation"] == [{"role": "user", "content": "question 0"}]


def test_the_waiting_pipelines_command_is_told_with_the_file_that_it_waits_for(tmp_path: Path) -> None:
    cfg = settings(tmp_path, [comparison(0)])
    run = tmp_path / "my runs/demo"
    (run / "v2_compare").mkdir(parents=True)
    (tmp_path / "comparisons.jsonl").rename(run / "v2_compare/comparisons.jsonl")
    cfg.comparisons, waits = str(run / "v2_compare/comparisons.jsonl"), {"out.jsonl": {"what": "preferences"}}
    assert going_on(cfg) == "", "of no pipeline"
    (run / "pipeline.json").write_text(json.dumps({"command": ["llamatrain", "pipeline", "run.dir=my runs"]}))
    plan = {"working_folder": str(tmp_path), "stages": [{"awaited": {}}, {"awaited": waits}]}
    (run / "plan.json").write_text(json.dumps(plan))
    assert going_on(cfg) == "The pipeline goes on with:\n  llamatrain pipeline 'run.dir=my runs'"
    cfg.out = str(tmp_path / "another.jsonl")
    assert going_on(cfg) == "", "it waits for another file"


def test_a_port_that_is_taken_a_file_that_is_there_and_a_missing_package_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port={port}: cannot listen there .* port=0 takes any"):
            collect(settings(tmp_path, [comparison(0)], f"port={port}"))
    (tmp_path / "there.jsonl").touch()
    with pytest.raises(UserError, match="the file is there already; need another name"):
        collect(settings(tmp_path, [comparison(0)], f"out={tmp_path / 'there.jsonl'}"))
    monkeypatch.delattr(evaluation.people, "server")
    monkeypatch.setitem(sys.modules, "evaluation.people.server", None)
    with pytest.raises(UserError, match=r"pip install 'llamatrain\[people\]'"):
        collect(settings(tmp_path, [comparison(0)]))
