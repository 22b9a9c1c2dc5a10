"""The page at ``/`` in a real browser: what is served, live rates, and the ranking of pictures."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.browser import watched_page
from tests.e2e.site import ROOT, Site, running_site
from tests.parity.audio_specs import wav

PICTURES = sorted((ROOT / "examples" / "digits").glob("*.png"))
QUERY = "a red seven above a black three"
FOR_QUERY = "Find me an everyday image that matches the given caption:"
FOR_PICTURES = "Represent the given image."


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture
def page(site: Site) -> Iterator[Page]:
    """The page, with the key."""
    with watched_page(site.browser, site.url) as opened:
        write_key(opened, site.key)
        yield opened


def data_uri(picture: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()


def write_key(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")


def row(page: Page, version: str) -> Any:
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=version))


def column(page: Page, title: str) -> list[tuple[str, str]]:
    """What one version was shown to rank: the candidates' names and cosines."""
    article = page.get_by_role("article").filter(
        has=page.get_by_role("heading", name=title, exact=True)
    )
    items = article.get_by_role("listitem")
    expect(items.first).to_be_visible()
    texts = [item.locator(".what").inner_text().split("\n") for item in items.all()]
    return [(lines[0].split(".png")[0], lines[-1]) for lines in texts]


def rank(page: Page, pictures: list[Any], text: str = QUERY) -> None:
    """Fills the form and sends it, by the keyboard as far as a browser lets one."""
    query, candidates = (page.get_by_role("group", name=name) for name in ("Query", "Candidates"))
    query.get_by_label("Text").fill(text)
    query.get_by_label("Instruction").fill(FOR_QUERY)
    candidates.get_by_label("Drop pictures, or choose them").set_input_files(pictures)
    candidates.get_by_label("Instruction").fill(FOR_PICTURES)
    button = page.get_by_role("button", name="Rank")
    expect(button).to_be_enabled()
    button.focus()
    page.keyboard.press("Enter")


def test_it_asks_for_a_key_and_forgets_it_with_the_tab(site: Site) -> None:
    with watched_page(site.browser, site.url) as page:
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("Write a key into the field above.")
        write_key(page, "vlm2vec_of-somebody-else")
        expect(alert).to_contain_text("The server says:")
        write_key(page, site.key)
        expect(alert).to_be_hidden()
        expect(page.get_by_role("status")).to_have_text("ready")
        page.reload()
        expect(page.get_by_role("heading", name="digits")).to_be_visible()
        kept = page.evaluate("[Object.values(localStorage), document.cookie]")
        assert kept == [[], ""]
        assert page.context.cookies() == []
        assert site.key not in page.url
    with watched_page(site.browser, site.url) as page:
        expect(page.get_by_role("alert")).to_be_visible()


def test_it_shows_who_answers_and_what_happens_now(site: Site, page: Page) -> None:
    expect(row(page, "1")).to_contain_text("champion, 100 %")
    expect(row(page, "2")).to_contain_text("canary, 0 %")
    expect(row(page, "base")).to_contain_text("who names it")
    expect(page.get_by_text("1 of 1")).to_be_visible()
    spaces = {
        item["version"]: item["space"]
        for item in site.ask("GET", "/v1/models")["data"][0]["versions"]
    }
    expect(row(page, "2")).to_contain_text(spaces["2"])
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            site.ask("POST", "/v1/embeddings", model="digits@canary", input=["a red seven"] * 8)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        busy = row(page, "2").locator(".number").first
        expect(busy).not_to_have_text("0")
        expect(busy).not_to_have_text("…")
        expect(row(page, "1").locator(".number").first).to_have_text("0")
    finally:
        done.set()
        thread.join()


def test_metrics_of_several_processes_are_added_up(page: Page) -> None:
    text = "".join(
        f'''# HELP vlm2vec_worker_up Whether a worker is ready.
vlm2vec_worker_up{{process="{process}",model="a\\"}} b",worker="a/cpu"}} 1.0
vlm2vec_worker_up{{process="{process}",model="a\\"}} b",worker="a/cuda"}} {process}.0
vlm2vec_inputs_total{{process="{process}",model="a\\"}} b",version="1",code="OK"}} 1.5e+01
vlm2vec_inputs_total{{process="{process}",model="a\\"}} b",version="1",code="INTERNAL"}} 1.0
'''
        for process in (0, 1)
    )
    script = """async (text) => {
        const { Rates } = await import("/static/rates.js");
        const rates = new Rates();
        rates.add(text);
        const inputs = rates.sum("inputs_total", { model: 'a"} b' }, ["INTERNAL"]);
        return [rates.workers(), inputs];
    }"""
    assert page.evaluate(script, text) == [{"all": 2, "ready": 1}, 30]


def test_it_ranks_pictures_by_the_champion_and_the_canary(site: Site, page: Page) -> None:
    rank(page, [str(path) for path in PICTURES])
    for title, which in (("champion: version 1", "champion"), ("canary: version 2", "canary")):
        answer = site.ask(
            "POST", "/v1/rerank", model=f"digits@{which}", query=QUERY, instruction=FOR_QUERY,
            documents=[{"image_url": data_uri(path)} for path in PICTURES],
            document_instruction=FOR_PICTURES,
        )  # fmt: skip
        found = column(page, title)
        assert found[0][0] == QUERY.replace(" ", "-")
        expected = [(PICTURES[one["index"]].stem, one["relevance_score"])
                    for one in answer["results"]]  # fmt: skip
        # What is in a batch may move the last digit.
        assert [score for _, score in expected] == pytest.approx(
            [float(score) for _, score in found], abs=2e-3
        )
        assert dict(expected).keys() == dict(found).keys()
    page.get_by_label("Beside the champion").select_option("nobody")
    page.get_by_role("button", name="Rank").click()
    expect(page.get_by_role("heading", name="canary: version 2")).to_be_hidden()
    assert len(column(page, "champion: version 1")) == len(PICTURES)


def test_texts_are_candidates_too_and_a_picture_may_ask(page: Page) -> None:
    texts = ["a red seven above a black three", "", "a blue two above a purple seven"]
    query, candidates = (page.get_by_role("group", name=name) for name in ("Query", "Candidates"))
    query.get_by_label("Drop pictures, or choose them").set_input_files(str(PICTURES[6]))
    candidates.get_by_label("Texts, one a line").fill("\n".join(texts))
    page.get_by_role("button", name="Rank").click()
    assert {name for name, _ in column(page, "champion: version 1")} == {texts[0], texts[2]}


def test_what_goes_wrong_is_said_and_nothing_of_it_is_run(page: Page) -> None:
    expect(page.get_by_role("heading", name="digits")).to_be_visible()
    page.get_by_role("button", name="Rank").click()
    expect(page.get_by_role("alert").last).to_contain_text("The query is empty")
    name = "<img src=x onerror='document.title=1'>.png"
    rank(page, [{"name": name, "mimeType": "image/png", "buffer": b"no picture"}])
    expect(page.get_by_role("alert").last).to_contain_text("documents[0]")
    remove = page.get_by_role("button", name=f"Remove {name}")
    remove.focus()
    page.keyboard.press("Enter")
    expect(remove).to_have_count(0)
    page.get_by_role("button", name="Rank").click()
    expect(page.get_by_role("alert").last).to_contain_text("There are no candidates")
    assert page.title() == "vlm2vec-serve"


def test_pictures_can_be_dropped(page: Page) -> None:
    script = """() => {
        const data = new DataTransfer();
        for (const name of ["a.png", "b.png"]) data.items.add(new File(["x"], name));
        return data;
    }"""
    data = page.evaluate_handle(script)
    page.dispatch_event("#candidates", "drop", {"dataTransfer": data})
    for name in ("a.png", "b.png"):
        expect(page.get_by_role("button", name=f"Remove {name}")).to_be_visible()


def test_sounds_are_for_models_that_take_them(page: Page) -> None:
    sound = {"rate": 8000, "samples": 4000, "format": "int16", "channels": [{"kind": "silence"}]}
    candidates = page.get_by_role("group", name="Candidates")
    chooser = candidates.get_by_label("Drop pictures, or choose them")
    assert chooser.get_attribute("accept") == "image/*"
    picture = {"name": "b.png", "mimeType": "image/png", "buffer": PICTURES[0].read_bytes()}
    rank(page, [{"name": "a.wav", "mimeType": "audio/wav", "buffer": wav(sound)}, picture])
    expect(page.get_by_role("alert").last).to_have_text(
        "digits takes no sounds: remove a.wav, or choose another model."
    )
    # Its length is known, so the page may play it.
    expect(candidates.get_by_label("a.wav", exact=True)).to_have_js_property("duration", 0.5)
    page.get_by_role("button", name="Remove a.wav").click()
    page.get_by_role("button", name="Rank").click()
    assert len(column(page, "champion: version 1")) == 1


@pytest.mark.parametrize(("path", "scheme"), [("/", "light"), ("/", "dark"), ("/docs", "dark")])
def test_it_fits_a_narrow_screen_in_both_colour_schemes(site: Site, path: str, scheme: str) -> None:
    size = {"width": 400, "height": 800}
    with watched_page(site.browser, site.url, viewport=size, color_scheme=scheme) as page:
        write_key(page, site.key)
        page.goto(site.url + path)
        expect(page.get_by_role("heading").nth(1)).to_be_visible()
        for card in page.locator("summary").all():
            card.click()
        if path == "/":
            rank(page, [str(path) for path in PICTURES[:3]])
            assert len(column(page, "canary: version 2")) == 3
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, ground.strip("rgb()").split(","))) / 3
        assert (brightness > 128) == (scheme == "light")


def test_docs_describe_and_try_every_call(site: Site) -> None:
    paths = httpx.get(f"{site.url}/openapi.json").json()["paths"]
    with watched_page(site.browser, site.url) as page:
        page.goto(site.url + "/docs")
        shown = page.locator("summary > code")
        expect(shown).to_have_count(sum(map(len, paths.values())))
        assert set(shown.all_inner_texts()) == set(paths)

        def send(path: str, values: dict[str, str]) -> Any:
            """Fills the form of a call, sends it, and gives the place of its answer."""
            place = page.locator("details.card").filter(
                has=page.get_by_text(path, exact=True).and_(page.locator("summary > code"))
            )
            if not place.get_by_role("button", name="Send").is_visible():
                place.locator("> summary").click()
            for label, value in values.items():
                place.get_by_label(label, exact=True).fill(value)
            place.get_by_role("button", name="Send").click()
            return expect(place.locator("pre"))

        body = json.dumps({"model": "digits@2", "input": "a red seven"})
        send("/v1/embeddings", {"Body": body}).to_contain_text("401")
        write_key(page, site.key)
        send("/v1/embeddings", {}).to_contain_text('"version": "2"')
        send("/v1/embeddings", {"Body": '{"input": 1}'}).to_contain_text("400\ninput: ")
        send("/v1/rerank", {}).to_contain_text('"relevance_score"')
        send("/v1/models/{model}", {"model": "digits"}).to_contain_text('"backbone": "qwen2_vl"')
        for field in ("input", "dimensions", "messages", "top_n"):
            expect(page.get_by_role("rowheader", name=field, exact=True).first).to_be_visible()


class Empty(BaseHTTPRequestHandler):
    """An empty page, wherever it is asked for."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", "0")
        self.end_headers()


def test_a_page_of_another_origin_calls_where_that_is_allowed(site: Site) -> None:
    script = """async ([url, key]) => {
        const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
        const body = JSON.stringify({ input: "a red seven" });
        try {
            const answer = await fetch(url, { method: "POST", headers, body });
            return [answer.status, answer.headers.has("x-request-id")];
        } catch {
            return "refused by the browser";
        }
    }"""
    pages = ThreadingHTTPServer(("127.0.0.1", site.elsewhere), Empty)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    page = site.browser.new_page()
    for host, expected in (("127.0.0.1", [200, True]), ("localhost", "refused by the browser")):
        page.goto(f"http://{host}:{site.elsewhere}/")
        assert page.evaluate(script, [f"{site.url}/v1/embeddings", site.key]) == expected
    page.close()
    pages.shutdown()
    pages.server_close()
